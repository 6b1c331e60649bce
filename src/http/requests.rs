//! What every request leaves behind: a count, its latency and a line in the log.
//!
//! Invariants: each request that reaches the router is counted once, however it ends: answered by a
//! handler or before one, after a panic, or not at all because the client went away. Labels are
//! templates of routes, never paths. Series are found by index, not by their labels.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::HttpBody;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderValue, Method};
use axum::response::Response;
use pin_project_lite::pin_project;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};
use tower::{Layer, Service};
use tracing::{debug, info, warn};

use super::problem::Kind;
use super::rejected::Rejected;
use super::request_id::{self, X_REQUEST_ID};
use super::versions;
use crate::telemetry::metrics::{
    HTTP_DURATION, HTTP_IN_FLIGHT, HTTP_REQUESTS, LATENCY_SECONDS, Metrics,
};

/// For directives: `LOG_LEVEL=info,traffic_api::request=warn` leaves those lines out.
const TARGET: &str = "traffic_api::request";

/// Where single views are written: a request that fails there is a view that is not kept.
const SINGLE_VIEWS: &str = "/api/traffic/{request_id}";
/// A path that leads nowhere.
const UNMATCHED: &str = "unmatched";
/// Many files each, which count as one.
const FOLDERS: &[&str] = &["/docs", "/dashboard"];

const METHODS: &[&str] = &[
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other",
];

/// What probes and scrapes ask for: logged only where it fails, or at debug.
const PROBES: &[&str] = &["/health", "/health/ready", "/metrics"];

/// What we answer with; others are looked up by their label.
const STATUSES: &[u16] = &[
    201, 200, 202, 204, 304, 400, 401, 403, 404, 405, 406, 408, 409, 410, 413, 415, 421, 422, 429,
    499, 500, 503,
];
/// The client went away before its answer; nginx's number for that.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// Which route a path leads to; the versions of a path are one.
type Places = HashMap<String, usize, foldhash::fast::FixedState>;

fn places(routes: &[String]) -> Places {
    let versions = routes.iter().enumerate().flat_map(|(place, route)| {
        let paths = versions::others(route).chain([route.clone()]);
        paths.map(move |path| (path, place))
    });
    versions.collect()
}

/// The measures of all requests.
pub(super) struct Requests {
    routes: Vec<String>,
    places: Places,
    /// By route, then by method.
    series: Box<[Series]>,
    counts: IntCounterVec,
    durations: HistogramVec,
    in_flight: AtomicU64,
    rejected: Rejected,
}

/// The measures of one method of one route, made when they are first used.
#[derive(Default)]
struct Series {
    duration: OnceLock<Histogram>,
    counts: [OnceLock<IntCounter>; STATUSES.len()],
}

/// Which route, by its place in [`Requests::routes`], and which method, by its place in [`METHODS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Target {
    route: usize,
    method: usize,
}

impl Requests {
    /// Of these routes, shown among `metrics`; others count as one.
    pub(super) fn new(
        routes: impl IntoIterator<Item = String>,
        metrics: &Metrics,
        rejected: Rejected,
    ) -> Arc<Self> {
        let known = [UNMATCHED]
            .iter()
            .chain(FOLDERS)
            .map(|path| (*path).to_owned());
        let routes: Vec<String> = known.chain(routes).collect();
        let series = (0..routes.len() * METHODS.len()).map(|_| Series::default());
        let requests = Arc::new(Self {
            places: places(&routes),
            series: series.collect(),
            routes,
            counts: metrics.counter(&HTTP_REQUESTS),
            durations: metrics.histogram(&HTTP_DURATION, LATENCY_SECONDS),
            in_flight: AtomicU64::new(0),
            rejected,
        });
        let shown = Arc::downgrade(&requests);
        metrics.read(move |reading| {
            let requests = shown.upgrade();
            let waiting = requests.map_or(0, |r| r.in_flight.load(Ordering::Relaxed));
            reading.gauge(&HTTP_IN_FLIGHT, waiting as f64);
        });
        requests
    }

    fn target(&self, request: &Request) -> Target {
        let matched = request.extensions().get::<MatchedPath>();
        Target {
            route: matched.map_or(0, |path| self.place(path.as_str())),
            method: match *request.method() {
                Method::GET => 0,
                Method::HEAD => 1,
                Method::POST => 2,
                Method::PUT => 3,
                Method::PATCH => 4,
                Method::DELETE => 5,
                Method::OPTIONS => 6,
                _ => 7,
            },
        }
    }

    fn place(&self, route: &str) -> usize {
        self.places.get(route).copied().unwrap_or_else(|| {
            let folder = FOLDERS.iter().position(|folder| route.starts_with(folder));
            folder.map_or(0, |place| place + 1)
        })
    }

    fn note(&self, target: Target, status: u16, took: Duration) {
        let Target { route, method } = target;
        let series = &self.series[route * METHODS.len() + method];
        let (route, method) = (self.routes[route].as_str(), METHODS[method]);
        let count = || {
            let labels = [route, method, &status.to_string()];
            self.counts.with_label_values(&labels)
        };
        match STATUSES.iter().position(|known| *known == status) {
            Some(place) => series.counts[place].get_or_init(count).inc(),
            None => count().inc(),
        }
        let duration = || self.durations.with_label_values(&[route, method]);
        let duration = series.duration.get_or_init(duration);
        duration.observe(took.as_secs_f64());
    }

    fn is_single_view(&self, target: Target) -> bool {
        METHODS[target.method] == "POST" && self.route(target) == SINGLE_VIEWS
    }

    fn route(&self, target: Target) -> &str {
        &self.routes[target.route]
    }
}

/// Counts what passes through a service.
#[derive(Clone)]
pub(super) struct Observe(pub(super) Arc<Requests>);

impl<S> Layer<S> for Observe {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Observed<S> {
        Observed {
            inner,
            requests: Arc::clone(&self.0),
        }
    }
}

/// A service whose requests are counted.
#[derive(Clone)]
pub(super) struct Observed<S> {
    inner: S,
    requests: Arc<Requests>,
}

impl<S: Service<Request, Response = Response>> Service<Request> for Observed<S> {
    type Response = Response;
    type Error = S::Error;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let requests = Arc::clone(&self.requests);
        requests.in_flight.fetch_add(1, Ordering::Relaxed);
        let pending = Pending {
            target: requests.target(&request),
            requests,
            began: Instant::now(),
            id: request_id::of(request.headers()),
            status: CLIENT_CLOSED_REQUEST,
            problem: None,
            response_bytes: None,
        };
        Answering {
            answer: self.inner.call(request),
            pending,
        }
    }
}

pin_project! {
    /// A request on its way to its answer.
    pub(super) struct Answering<F> {
        #[pin]
        answer: F,
        pending: Pending,
    }
}

impl<F: Future<Output = Result<Response, E>>, E> Future for Answering<F> {
    type Output = Result<Response, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut answer = ready!(this.answer.poll(context));
        if let Ok(response) = &mut answer {
            this.pending.answered(response);
        }
        Poll::Ready(answer)
    }
}

/// Notes the end of a request, whichever it is.
struct Pending {
    requests: Arc<Requests>,
    target: Target,
    began: Instant,
    id: HeaderValue,
    status: u16,
    problem: Option<Kind>,
    response_bytes: Option<u64>,
}

impl Pending {
    fn answered(&mut self, response: &mut Response) {
        self.status = response.status().as_u16();
        self.response_bytes = response.body().size_hint().exact();
        self.problem = response.extensions().get::<Kind>().copied();
        if let Some(kind) = self.problem
            && self.requests.is_single_view(self.target)
        {
            self.requests.rejected.single(kind);
        }
        response.headers_mut().insert(X_REQUEST_ID, self.id.clone());
    }

    /// One line, without anything that a client may have put into its path or its body.
    fn log(&self, took: Duration) {
        let (method, route) = (
            METHODS[self.target.method],
            self.requests.route(self.target),
        );
        let latency_ms = took.as_micros() as f64 / 1000.0;
        let (status, response_bytes) = (self.status, self.response_bytes);
        let problem = self.problem.map(Kind::slug);
        // Taken over only where it is ASCII.
        let x_request_id = self.id.to_str().unwrap_or_default();
        macro_rules! line {
            ($level:ident) => {
                $level!(
                    target: TARGET, method, route, status, latency_ms, response_bytes, problem,
                    x_request_id, "request"
                )
            };
        }
        if status == 500 {
            line!(warn);
        } else if status == 200 && PROBES.contains(&route) {
            line!(debug);
        } else {
            line!(info);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.requests.in_flight.fetch_sub(1, Ordering::Relaxed);
        let took = self.began.elapsed();
        self.requests.note(self.target, self.status, took);
        self.log(took);
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::routing::get;
    use tower_http::catch_panic::CatchPanicLayer;

    use super::*;

    async fn breaks() {
        panic!("on purpose");
    }

    #[tokio::test]
    async fn a_panic_is_counted_as_a_failed_request_with_an_id() {
        let metrics = Metrics::default();
        let routes = ["/breaks".to_owned()];
        let requests = Requests::new(routes, &metrics, Rejected::views(&metrics));
        let mut router: Router = Router::new()
            .route("/breaks", get(breaks))
            .layer(CatchPanicLayer::custom(crate::http::panicked))
            .layer(Observe(requests));
        let request = Request::get("/breaks").body(Body::empty()).unwrap();
        let response = Service::<Request>::call(&mut router, request).await;
        let response = response.unwrap();
        assert_eq!(response.status(), 500);
        assert!(response.headers().contains_key(X_REQUEST_ID));
        let counted =
            "traffic_http_requests_total{method=\"GET\",route=\"/breaks\",status=\"500\"} 1";
        assert!(metrics.render().contains(counted), "{}", metrics.render());
    }
}
