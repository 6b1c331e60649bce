//! Who may know whom. The table is DESIGN made executable: an arrow that is not in it fails.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};

/// Module, the modules it may import, the crates it must not name.
const RULES: &[(&str, &[&str], &[&str])] = &[
    ("domain", &[], &["tokio", "axum", "clickhouse", "reqwest"]),
    ("access", &["domain"], &["tokio", "axum", "clickhouse"]),
    ("pipeline", &["domain"], &["axum", "clickhouse"]),
    (
        "repository",
        &["domain", "pipeline", "telemetry"],
        &["axum"],
    ),
    ("engine", &[], &["axum", "clickhouse"]),
    // A client of the service, which knows no more of it than any other.
    ("generate", &["domain"], &["axum", "clickhouse"]),
    (
        "http",
        &[
            "access",
            "domain",
            "pipeline",
            "repository",
            "telemetry",
            "tls",
        ],
        &["clickhouse"],
    ),
    (
        "operator",
        &["access", "config", "domain", "pipeline", "repository"],
        &["axum", "clickhouse"],
    ),
    ("probe", &["tls"], &["axum", "clickhouse"]),
    ("telemetry", &["config"], &["axum", "clickhouse"]),
    ("tls", &[], &["tokio", "axum", "clickhouse"]),
    ("config", &[], &["clickhouse"]),
];

/// Modules whose string literals may hold SQL.
const SQL_ROOMS: &[&str] = &["repository", "engine"];

fn sources(module: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let file = root.join(format!("{module}.rs"));
    if file.exists() {
        found.push(file);
    }
    let mut folders = vec![root.join(module)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found
}

fn tokens(file: &Path) -> TokenStream {
    std::fs::read_to_string(file).unwrap().parse().unwrap()
}

/// Every module that is named behind `crate::` (also in groups and inside macros), every other
/// identifier, and every string literal.
#[derive(Default)]
struct Names {
    modules: BTreeSet<String>,
    identifiers: BTreeSet<String>,
    literals: Vec<String>,
}

fn read(stream: TokenStream, names: &mut Names) {
    let trees: Vec<TokenTree> = stream.into_iter().collect();
    for (i, tree) in trees.iter().enumerate() {
        match tree {
            TokenTree::Ident(ident) if ident == "crate" => {
                let behind = trees.get(i + 1..i + 4).unwrap_or_default();
                match behind {
                    [
                        TokenTree::Punct(_),
                        TokenTree::Punct(_),
                        TokenTree::Ident(module),
                    ] => {
                        names.modules.insert(module.to_string());
                    }
                    [
                        TokenTree::Punct(_),
                        TokenTree::Punct(_),
                        TokenTree::Group(group),
                    ] => {
                        names.modules.extend(heads(group.stream()));
                    }
                    _ => {}
                }
            }
            TokenTree::Ident(ident) => {
                // A field or a function of the name is not the crate: a path is.
                let colon = |tree: Option<&TokenTree>| matches!(tree, Some(TokenTree::Punct(p)) if p.as_char() == ':');
                let inside_path = i > 0 && colon(trees.get(i - 1));
                if colon(trees.get(i + 1)) && colon(trees.get(i + 2)) && !inside_path {
                    names.identifiers.insert(ident.to_string());
                }
            }
            TokenTree::Literal(literal) => names.literals.push(literal.to_string()),
            TokenTree::Group(group) => read(group.stream(), names),
            TokenTree::Punct(_) => {}
        }
    }
}

/// The first identifier of each element of `{a::b, c}`.
fn heads(group: TokenStream) -> Vec<String> {
    let mut heads = Vec::new();
    let mut at_start = true;
    for tree in group {
        match tree {
            TokenTree::Ident(ident) if at_start => {
                heads.push(ident.to_string());
                at_start = false;
            }
            TokenTree::Punct(punct) if punct.as_char() == ',' => at_start = true,
            _ => {}
        }
    }
    heads
}

fn names(file: &Path) -> Names {
    let mut found = Names::default();
    read(tokens(file), &mut found);
    found
}

#[test]
fn data_flows_one_way() {
    for (module, allowed, forbidden) in RULES {
        let files = sources(module);
        assert!(!files.is_empty(), "no module {module}");
        for file in files {
            let found = names(&file);
            for import in &found.modules {
                assert!(
                    import == module || allowed.contains(&import.as_str()),
                    "{} imports crate::{import}",
                    file.display()
                );
            }
            for name in *forbidden {
                assert!(
                    !found.identifiers.contains(*name),
                    "{} names {name}",
                    file.display()
                );
            }
        }
    }
}

#[test]
fn every_module_has_a_rule() {
    let library = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/lib.rs"));
    for line in library.unwrap().lines() {
        if let Some(module) = line
            .strip_prefix("pub mod ")
            .and_then(|l| l.strip_suffix(';'))
        {
            assert!(
                module == "app" || RULES.iter().any(|(name, ..)| *name == module),
                "{module} has no rule"
            );
        }
    }
}

#[test]
fn sql_lives_in_the_repository() {
    let rooms = RULES
        .iter()
        .map(|(module, ..)| *module)
        .chain(["app", "main"]);
    for module in rooms.filter(|module| !SQL_ROOMS.contains(module)) {
        for file in sources(module) {
            for literal in names(&file).literals {
                for word in [
                    "SELECT ",
                    "INSERT INTO",
                    "CREATE TABLE",
                    "ALTER TABLE",
                    "DELETE FROM",
                ] {
                    assert!(!literal.contains(word), "{}: {literal}", file.display());
                }
            }
        }
    }
}

/// The fields that hold free text of clients; all else that they send is a number, a UUID, a time, or a
/// name of letters and digits.
const FREE_TEXT: &[&str] = &["page_url", "prefix"];

/// What `format!` and `write!` put into texts: names of values inside the braces, and behind the text.
fn formatted(stream: TokenStream, found: &mut Vec<String>) {
    let trees: Vec<TokenTree> = stream.into_iter().collect();
    for (i, tree) in trees.iter().enumerate() {
        let TokenTree::Group(group) = tree else {
            continue;
        };
        let is_macro = i >= 2
            && matches!(&trees[i - 1], TokenTree::Punct(p) if p.as_char() == '!')
            && matches!(&trees[i - 2], TokenTree::Ident(name)
                if ["format", "write", "writeln", "concat"].contains(&name.to_string().as_str()));
        // What implements `Display` writes to a formatter of that name: for people.
        let is_shown = matches!(group.stream().into_iter().next(),
            Some(TokenTree::Ident(name)) if name == "f");
        if is_macro && !is_shown {
            values(group.stream(), found);
        }
        formatted(group.stream(), found);
    }
}

fn values(stream: TokenStream, found: &mut Vec<String>) {
    for tree in stream {
        match tree {
            TokenTree::Ident(name) => found.push(name.to_string()),
            TokenTree::Group(group) => values(group.stream(), found),
            TokenTree::Literal(literal) => {
                let text = literal.to_string().replace("{{", "");
                let inside = text.split('{').skip(1);
                let name = |rest: &str| {
                    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
                    rest[..end.unwrap_or(rest.len())].to_owned()
                };
                found.extend(inside.map(name));
            }
            TokenTree::Punct(_) => {}
        }
    }
}

/// A coarse net: it knows the names of fields, not where a value came from. `it::injection` shows
/// the rest.
#[test]
fn no_free_text_is_put_into_a_statement() {
    for file in sources("repository") {
        let text = std::fs::read_to_string(&file).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap();
        let mut found = Vec::new();
        formatted(text.parse().unwrap(), &mut found);
        for name in FREE_TEXT {
            let put = found.iter().any(|other| other == name);
            assert!(!put, "{} formats {name}", file.display());
        }
    }
    for wrong in [
        r#"fn f() { q(&format!("SELECT '{page_url}'")); }"#,
        r#"fn f() { q(&format!("SELECT '{}'", view.page_url.as_str())); }"#,
        r#"fn f() { g(|| { write!(sql, "{}", escape(&query.prefix)) }) }"#,
    ] {
        let mut found = Vec::new();
        formatted(wrong.parse().unwrap(), &mut found);
        assert!(
            found.iter().any(|name| FREE_TEXT.contains(&name.as_str())),
            "{wrong}"
        );
    }
    let mut found = Vec::new();
    let right =
        r#"fn f() { query.param("p", page_url); format!("unhex({{prefix:String}}), page_url") }"#;
    formatted(right.parse().unwrap(), &mut found);
    assert!(
        !found.iter().any(|name| FREE_TEXT.contains(&name.as_str())),
        "{found:?}"
    );
}

/// Who may lift the lint `unsafe_code`, in the whole package: a library that is opened at run time, and an
/// allocator that watches sizes in a test.
const UNSAFE_ROOMS: &[&str] = &["src/engine/child.rs", "tests/spool_format.rs"];

/// Whether the tokens lift a lint of that name anywhere: in `allow`, `warn` or `expect`, also behind
/// `cfg_attr`.
fn lifts(stream: TokenStream, lint: &str) -> bool {
    let trees: Vec<TokenTree> = stream.into_iter().collect();
    trees.iter().enumerate().any(|(i, tree)| {
        let TokenTree::Group(group) = tree else {
            return false;
        };
        let before = i.checked_sub(1).and_then(|i| trees.get(i));
        let is_level = matches!(before, Some(TokenTree::Ident(level))
            if ["allow", "warn", "expect"].iter().any(|word| level == word));
        let names_it = |tree| matches!(tree, TokenTree::Ident(name) if name == lint);
        is_level && group.stream().into_iter().any(names_it) || lifts(group.stream(), lint)
    })
}

#[test]
fn unsafe_code_stays_in_its_rooms() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
    assert!(manifest.contains("\nunsafe_code = \"deny\"\n"));
    let mut folders = ["src", "tests", "benches"]
        .map(|name| root.join(name))
        .to_vec();
    let mut found = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs")
                && lifts(tokens(&path), "unsafe_code")
            {
                let path = path.strip_prefix(root).unwrap();
                found.insert(path.to_str().unwrap().to_owned());
            }
        }
    }
    assert_eq!(found.iter().collect::<Vec<_>>(), UNSAFE_ROOMS);
    let lifted = "#[cfg_attr(all(), expect(dead_code, unsafe_code, reason = \"x\"))] fn f() {}";
    assert!(lifts(lifted.parse().unwrap(), "unsafe_code"));
    let other = "#[deny(unsafe_code)] #[expect(dead_code)] fn f() { unsafe_code() }";
    assert!(!lifts(other.parse().unwrap(), "unsafe_code"));
}

#[test]
fn files_stay_readable() {
    for module in RULES
        .iter()
        .map(|(module, ..)| *module)
        .chain(["app", "main"])
    {
        for file in sources(module) {
            let lines = std::fs::read_to_string(&file).unwrap().lines().count();
            assert!(lines <= 420, "{} has {lines} lines", file.display());
        }
    }
}

#[test]
fn the_rules_can_fail() {
    let stream: TokenStream = "use crate::{http::x, domain}; fn f() { let a = crate::engine::g(); \
                               tokio::spawn(m!(axum::x)); b.clickhouse(); }"
        .parse()
        .unwrap();
    let mut found = Names::default();
    read(stream, &mut found);
    assert_eq!(
        found.modules.iter().map(String::as_str).collect::<Vec<_>>(),
        ["domain", "engine", "http"]
    );
    assert!(found.identifiers.contains("tokio") && found.identifiers.contains("axum"));
    assert!(!found.identifiers.contains("clickhouse"));
}
