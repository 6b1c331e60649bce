//! The middleware that every request passes.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::{error, warn};
use utoipa::openapi::OpenApi;

use super::Caller;
use super::credentials::{Presented, presented};
use super::rules::{Needs, Rule, Rules};
use crate::access::{Denied, Key, Keys, LimitSettings, Limits, Proxies, Standing};
use crate::domain::Clock;
use crate::http::browsers::Browsers;
use crate::http::problem::{Kind, Problem};
use crate::http::server::Peer;
use crate::http::versions;
use crate::pipeline::Seldom;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(in crate::http) const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
pub(in crate::http) const RATE_LIMIT_POLICY: HeaderName =
    HeaderName::from_static("ratelimit-policy");

/// Who may call, and how often; cheap to clone.
#[derive(Clone)]
pub struct Access {
    /// The keys that callers are known by; `None` lets everybody do everything.
    pub keys: Option<Arc<Keys>>,
    /// How often they may call.
    pub limits: Arc<Limits>,
    /// Who else may say where a call comes from.
    pub proxies: Arc<Proxies>,
    /// Whether the page at `/` and the documents need no key.
    pub docs_are_public: bool,
    /// Whether `/metrics` needs no key.
    pub metrics_are_public: bool,
    /// What pages in browsers may do.
    pub browsers: Arc<Browsers>,
}

impl Access {
    /// Nobody is asked anything.
    pub fn everybody() -> Self {
        Self {
            keys: None,
            limits: Arc::new(Limits::new(LimitSettings::default())),
            proxies: Arc::default(),
            docs_are_public: true,
            metrics_are_public: true,
            browsers: Arc::new(Browsers::everybody()),
        }
    }
}

/// [`Access`] and the rules of the routes.
pub(in crate::http) struct Guard {
    access: Access,
    rules: Rules,
    clock: Clock,
}

impl Guard {
    /// The rules of `document`; `docs` are paths that serve no data but explain.
    pub(in crate::http) fn new<'a>(
        access: Access,
        document: &OpenApi,
        docs: impl IntoIterator<Item = &'a str>,
        clock: Clock,
    ) -> Arc<Self> {
        let mut rules = Rules::of(document);
        let rule = |is_public| {
            if is_public {
                Rule::Open
            } else {
                Rule::Key(Needs::READ)
            }
        };
        for path in docs {
            rules.add(path, rule(access.docs_are_public));
        }
        if access.metrics_are_public {
            rules.add("/metrics", Rule::Open);
        }
        Arc::new(Self {
            access,
            rules,
            clock,
        })
    }

    /// Whether any caller is asked anything.
    pub(in crate::http) fn is_needed(&self) -> bool {
        self.access.keys.is_some() || self.access.limits.limit_addresses()
    }

    /// The caller and how they stand with their limits, if they may call.
    fn admit(
        &self,
        needs: Needs,
        request: &Request,
    ) -> Result<(Caller, Option<Standing>), Problem> {
        let address = self.address(request);
        let key = match &self.access.keys {
            Some(keys) => Some(self.authenticate(keys, request.headers(), address)?),
            None => None,
        };
        if let Some(key) = &key {
            authorize(key, needs, request.uri().path())?;
        }
        let limits = &self.access.limits;
        let standing = limits
            .charge(needs.direction, key.as_deref(), address, needs.cost)
            .map_err(too_many)?;
        Ok((Caller::new(self.access.clone(), key, address), standing))
    }

    fn address(&self, request: &Request) -> IpAddr {
        let peer = request.extensions().get::<ConnectInfo<Peer>>();
        let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.0.ip());
        let forwarded = request.headers().get_all(FORWARDED_FOR).iter();
        self.access
            .proxies
            .caller(peer, forwarded.map(HeaderValue::as_bytes))
    }

    fn authenticate(
        &self,
        keys: &Keys,
        headers: &HeaderMap,
        address: IpAddr,
    ) -> Result<Arc<Key>, Problem> {
        static REFUSED: Seldom = Seldom::new();
        let denied = match presented(headers) {
            Presented::Nothing => {
                return Err(unknown("send a key: Authorization: Bearer, or X-Api-Key")
                    .with_header(header::WWW_AUTHENTICATE, challenge("")));
            }
            Presented::Several => {
                return Err(unknown("two different keys were sent; send one")
                    .with_header(header::WWW_AUTHENTICATE, challenge(INVALID)));
            }
            Presented::Key(text) => match keys.ring().find(text, || self.clock.now()) {
                Ok(key) => return Ok(Arc::clone(key)),
                Err(denied) => denied,
            },
        };
        // A right key is let in however many wrong ones its address has sent: nobody can guess 256
        // bits, but anybody behind a shared address could lock the others out.
        self.access
            .limits
            .count_failure(address)
            .map_err(too_many)?;
        REFUSED.say(|left_out| warn!(%address, %denied, left_out, "key refused"));
        let detail = match denied {
            Denied::Malformed => "the key is mistyped or cut off: its checksum is wrong",
            Denied::Unknown => "the key is not known here; it may have been revoked",
            Denied::Expired => "the key has expired",
        };
        Err(unknown(detail).with_header(header::WWW_AUTHENTICATE, challenge(INVALID)))
    }
}

const INVALID: &str = ", error=\"invalid_token\"";

fn unknown(detail: &str) -> Problem {
    Problem::new(Kind::Unauthenticated).with_detail(detail)
}

/// As RFC 6750 (section 3) has it.
fn challenge(parameters: &str) -> HeaderValue {
    let text = format!("Bearer realm=\"traffic-api\"{parameters}");
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("Bearer"))
}

fn authorize(key: &Key, needs: Needs, path: &str) -> Result<(), Problem> {
    let forbidden = |detail: String| Problem::new(Kind::Forbidden).with_detail(detail);
    if !key.scopes.have(needs.scope) {
        let scope = needs.scope.name();
        let error = challenge(&format!(
            ", error=\"insufficient_scope\", scope=\"{scope}\""
        ));
        return Err(forbidden(format!("the key has not got the scope {scope}"))
            .with_header(header::WWW_AUTHENTICATE, error));
    }
    // A key for a path is one for its versions.
    if !key.may_go_to(path) && !key.may_go_to(&versions::documented(path)) {
        return Err(forbidden("the key is not for this path".to_owned()));
    }
    if !needs.judges_users && !key.restrictions.users.is_everybody() {
        return Err(forbidden(
            "the key is for some users only, and this is about all".to_owned(),
        ));
    }
    Ok(())
}

/// The refusal of a caller who has used up a limit.
pub(super) fn too_many(standing: Standing) -> Problem {
    let seconds = standing.taken.wait.as_secs() + 1;
    let detail = format!(
        "{}: at most {} in {} s",
        standing.policy,
        standing.rate.quota(),
        standing.rate.window().as_secs()
    );
    let mut problem = Problem::new(Kind::RateLimited)
        .with_detail(detail)
        .with_header(header::RETRY_AFTER, HeaderValue::from(seconds));
    for (name, value) in fields(&standing) {
        problem = problem.with_header(name, value);
    }
    problem
}

/// The fields of draft-ietf-httpapi-ratelimit-headers-10.
fn fields(standing: &Standing) -> [(HeaderName, HeaderValue); 2] {
    let Standing {
        policy,
        rate,
        taken,
    } = standing;
    let (quota, window) = (rate.quota(), rate.window().as_secs());
    let (remaining, full) = (taken.remaining, taken.full_in.as_secs_f64().ceil());
    let value =
        |text: String| HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""));
    [
        (
            RATE_LIMIT_POLICY,
            value(format!("\"{policy}\";q={quota};w={window}")),
        ),
        (
            RATE_LIMIT,
            value(format!("\"{policy}\";r={remaining};t={full}")),
        ),
    ]
}

/// Lets a request pass, or answers it.
pub(in crate::http) async fn guard(
    State(guard): State<Arc<Guard>>,
    mut request: Request,
    next: Next,
) -> Response {
    // What leads nowhere is answered as such.
    let Some(path) = request.extensions().get::<MatchedPath>() else {
        return next.run(request).await;
    };
    let rules = guard.rules.path(path.as_str());
    let needs = match rules.map(|rules| rules.method(request.method())) {
        Some(Some(Rule::Open)) => return next.run(request).await,
        Some(Some(Rule::Key(needs))) => needs,
        _ if guard.access.keys.is_none() => return next.run(request).await,
        Some(None) => {
            let allow = rules.map(|rules| rules.allow()).unwrap_or_default();
            let allow = HeaderValue::try_from(allow).unwrap_or(HeaderValue::from_static(""));
            return Problem::new(Kind::MethodNotAllowed)
                .with_header(header::ALLOW, allow)
                .into_response();
        }
        None | Some(Some(Rule::Closed)) => {
            error!(path = path.as_str(), "a route does not say what it needs");
            return Problem::new(Kind::Forbidden).into_response();
        }
    };
    let (caller, standing) = match guard.admit(needs, &request) {
        Ok(admitted) => admitted,
        Err(problem) => return problem.into_response(),
    };
    request.extensions_mut().insert(caller);
    let mut response = next.run(request).await;
    if let Some(standing) = standing {
        for (name, value) in fields(&standing) {
            // A limit that was met further inside has said how it stands.
            response.headers_mut().entry(name).or_insert(value);
        }
    }
    response
}
