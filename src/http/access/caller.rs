//! What a handler knows of the caller.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request;

use super::guard::{Access, too_many};
use crate::access::{Direction, Key};
use crate::domain::{UserId, UserSet};
use crate::http::problem::{Kind, Problem};

/// Who is calling, and what they may do. Where nobody is asked for a key and nothing is limited,
/// anything.
#[derive(Clone, Default)]
pub(in crate::http) struct Caller(Option<Arc<Known>>);

/// By what a caller is told from others: the id of its key, else where it calls from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Who {
    /// The id of a key.
    Key(String),
    /// An address.
    Address(IpAddr),
}

struct Known {
    access: Access,
    key: Option<Arc<Key>>,
    address: IpAddr,
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut request::Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts
            .extensions
            .get::<Caller>()
            .cloned()
            .unwrap_or_default())
    }
}

impl Caller {
    pub(super) fn new(access: Access, key: Option<Arc<Key>>, address: IpAddr) -> Self {
        Self(Some(Arc::new(Known {
            access,
            key,
            address,
        })))
    }

    fn key(&self) -> Option<&Key> {
        self.0.as_ref()?.key.as_deref()
    }

    /// The public name of the caller's key, for the log; empty where there is none.
    pub(in crate::http) fn key_id(&self) -> &str {
        self.key().map_or("", |key| key.id.as_str())
    }

    /// Who calls, where that is asked at all.
    pub(in crate::http) fn who(&self) -> Option<Who> {
        let known = self.0.as_ref()?;
        let key = self.key().map(|key| Who::Key(key.id.as_str().to_owned()));
        Some(key.unwrap_or(Who::Address(known.address)))
    }

    /// Whose views the caller may deal with.
    pub(in crate::http) fn users(&self) -> UserSet {
        let users = self.key().map(|key| key.restrictions.users.clone());
        users.unwrap_or(UserSet::EVERYBODY)
    }

    /// Whether that includes `user`.
    pub(in crate::http) fn may_deal_with(&self, user: UserId) -> bool {
        let users = self.key().map(|key| &key.restrictions.users);
        users.is_none_or(|users| users.contains(user))
    }

    /// That the caller may deal with a user whom the request itself names, so that a refusal tells
    /// nothing.
    pub(in crate::http) fn check_user(&self, user: UserId) -> Result<(), Problem> {
        self.may_deal_with(user).then_some(()).ok_or_else(|| {
            Problem::new(Kind::Forbidden)
                .with_detail(format!("the key is not for user {}", user.get()))
        })
    }

    /// Takes `rows` more from what the caller may write. The first was paid for at the door.
    ///
    /// # Errors
    /// When the limit is used up.
    pub(in crate::http) fn charge_rows(&self, rows: u64) -> Result<(), Problem> {
        let Some(known) = &self.0 else {
            return Ok(());
        };
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        let limits = &known.access.limits;
        let charged = limits.charge(Direction::Write, self.key(), known.address, rows);
        charged.map(|_| ()).map_err(|standing| {
            let detail = format!(
                "{}: at most {} rows in {} s; send the batch again in parts that fit, which is safe",
                standing.policy,
                standing.rate.quota(),
                standing.rate.window().as_secs()
            );
            too_many(standing).with_detail(detail)
        })
    }
}
