//! The layer that judges requests and completes answers.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::{Browsers, headers};
use crate::http::problem::{Kind, Problem};

/// Refuses what no page may do; tells browsers what to do with all answers.
#[derive(Clone)]
pub(in crate::http) struct Protect(pub(in crate::http) Arc<Browsers>);

impl<S> Layer<S> for Protect {
    type Service = Protected<S>;

    fn layer(&self, inner: S) -> Protected<S> {
        Protected {
            inner,
            browsers: Arc::clone(&self.0),
        }
    }
}

/// A service that is protected.
#[derive(Clone)]
pub(in crate::http) struct Protected<S> {
    inner: S,
    browsers: Arc<Browsers>,
}

impl<S: Service<Request, Response = Response>> Service<Request> for Protected<S> {
    type Response = Response;
    type Error = S::Error;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match self.browsers.refusal(&request) {
            Some(problem) => Answering::Refused {
                problem: Some(problem),
            },
            None => Answering::Called {
                answer: self.inner.call(request),
            },
        }
    }
}

impl Browsers {
    fn refusal(&self, request: &Request) -> Option<Problem> {
        if !self.hosts.accept(request) {
            return Some(Problem::new(Kind::UnknownHost).with_detail(
                "the name in Host is none of the service's own; ALLOWED_HOSTS names others",
            ));
        }
        if self.foreign_pages_are_refused && self.origins.are_foreign_to(request) {
            return Some(Problem::new(Kind::ForeignPage).with_detail(
                "there are no keys, so pages of other origins may not call; CORS_ORIGINS names some",
            ));
        }
        None
    }
}

pin_project! {
    /// A request on its way to its answer.
    #[project = AnsweringProjection]
    pub(in crate::http) enum Answering<F> {
        Refused { problem: Option<Problem> },
        Called { #[pin] answer: F },
    }
}

impl<F: Future<Output = Result<Response, E>>, E> Future for Answering<F> {
    type Output = Result<Response, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut answer = match self.project() {
            AnsweringProjection::Called { answer } => ready!(answer.poll(context)),
            AnsweringProjection::Refused { problem } => match problem.take() {
                Some(problem) => Ok(problem.into_response()),
                None => return Poll::Pending,
            },
        };
        if let Ok(response) = &mut answer {
            headers::complete(response.headers_mut());
        }
        Poll::Ready(answer)
    }
}
