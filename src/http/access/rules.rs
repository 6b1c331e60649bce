//! What each operation needs, read from the document that describes it.

use std::collections::HashMap;

use axum::http::Method;
use serde_json::Value;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::{OpenApi, SecurityRequirement};

use crate::access::{Direction, Scope};
use crate::http::versions;

/// The security scheme that operations name.
pub(in crate::http) const SCHEME: &str = "bearer";
/// Says that the handler keeps a key that is restricted to users to these.
const RESTRICTED_KEYS: &str = "x-restricted-keys";
/// What a call takes from its limit; 1 where nothing is said.
const COST: &str = "x-cost";

/// What a call needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Nothing.
    Open,
    /// A key.
    Key(Needs),
    /// It was forgotten to say.
    Closed,
}

/// What a key must have, and pay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Needs {
    pub(super) scope: Scope,
    pub(super) judges_users: bool,
    pub(super) direction: Direction,
    pub(super) cost: u32,
}

impl Needs {
    pub(super) const READ: Needs = Needs {
        scope: Scope::Read,
        // There are no users in it.
        judges_users: true,
        direction: Direction::Read,
        cost: 1,
    };
}

/// The rules of all paths.
pub(super) struct Rules(HashMap<String, PathRules>);

/// The rules of one path.
#[derive(Default)]
pub(super) struct PathRules(Vec<(Method, Rule)>);

impl Rules {
    pub(super) fn of(document: &OpenApi) -> Self {
        let paths = document.paths.paths.iter();
        Self(
            paths
                .flat_map(|(path, item)| {
                    let paths = versions::others(path).chain([path.clone()]);
                    paths.map(|path| (path, PathRules::of(item)))
                })
                .collect(),
        )
    }

    /// The rule of a path that the document leaves out.
    pub(super) fn add(&mut self, path: &str, rule: Rule) {
        let rules = PathRules(vec![(Method::GET, rule)]);
        self.0.insert(path.to_owned(), rules);
    }

    pub(super) fn path(&self, path: &str) -> Option<&PathRules> {
        self.0.get(path)
    }
}

impl PathRules {
    fn of(item: &PathItem) -> Self {
        let operations = [
            (Method::GET, &item.get),
            (Method::PUT, &item.put),
            (Method::POST, &item.post),
            (Method::PATCH, &item.patch),
            (Method::DELETE, &item.delete),
        ];
        let described = operations.into_iter();
        let described = described.filter_map(|(method, operation)| {
            let operation = operation.as_ref()?;
            let rule = rule(&method, operation);
            Some((method, rule))
        });
        Self(described.collect())
    }

    /// The rule of a method; `None` where the path does not have it. Where GET is served, so is HEAD.
    pub(super) fn method(&self, method: &Method) -> Option<Rule> {
        let method = if method == Method::HEAD {
            &Method::GET
        } else {
            method
        };
        let mut rules = self.0.iter();
        rules
            .find(|(other, _)| other == method)
            .map(|(_, rule)| *rule)
    }

    /// The methods that the path has.
    pub(super) fn allow(&self) -> String {
        let methods = self.0.iter().map(|(method, _)| match *method {
            Method::GET => "GET,HEAD",
            ref method => method.as_str(),
        });
        methods.collect::<Vec<_>>().join(",")
    }
}

fn rule(method: &Method, operation: &Operation) -> Rule {
    let Some(requirements) = &operation.security else {
        return Rule::Closed;
    };
    let requirements = requirements.iter().map(serde_json::to_value);
    let requirements: Vec<Value> = requirements.map(Result::unwrap_or_default).collect();
    if requirements
        .iter()
        .all(|one| one == &Value::Object(Default::default()))
    {
        return Rule::Open;
    }
    let scopes = requirements.iter().filter_map(|one| one[SCHEME].as_array());
    let scopes: Vec<&str> = scopes.flatten().filter_map(Value::as_str).collect();
    let [scope] = scopes[..] else {
        return Rule::Closed;
    };
    let Ok(scope) = scope.parse() else {
        return Rule::Closed;
    };
    let extension = |name: &str| operation.extensions.as_ref().and_then(|all| all.get(name));
    let cost = extension(COST).and_then(Value::as_u64).unwrap_or(1);
    Rule::Key(Needs {
        scope,
        judges_users: extension(RESTRICTED_KEYS) == Some(&Value::Bool(true)),
        direction: match *method {
            Method::GET => Direction::Read,
            _ => Direction::Write,
        },
        cost: u32::try_from(cost).unwrap_or(u32::MAX),
    })
}

/// Whether an operation needs a key.
pub(in crate::http) fn needs_key(operation: &Operation) -> bool {
    let open = SecurityRequirement::default();
    let requirements = operation.security.as_deref().unwrap_or_default();
    requirements.iter().any(|one| one != &open)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(description: Value) -> Operation {
        serde_json::from_value(description).unwrap()
    }

    #[test]
    fn what_says_nothing_is_closed() {
        let rule = |description| rule(&Method::GET, &operation(description));
        for closed in [
            serde_json::json!({"responses": {}}),
            serde_json::json!({"responses": {}, "security": [{"bearer": []}]}),
            serde_json::json!({"responses": {}, "security": [{"bearer": ["raed"]}]}),
            serde_json::json!({"responses": {}, "security": [{"bearer": ["read", "write"]}]}),
            serde_json::json!({"responses": {}, "security": [{"other": ["read"]}]}),
        ] {
            assert_eq!(rule(closed.clone()), Rule::Closed, "{closed}");
        }
        let open = serde_json::json!({"responses": {}, "security": [{}]});
        assert_eq!(rule(open), Rule::Open);
        let read = serde_json::json!({"responses": {}, "security": [{"bearer": ["read"]}]});
        let needs = Needs {
            judges_users: false,
            ..Needs::READ
        };
        assert_eq!(rule(read), Rule::Key(needs));
    }
}
