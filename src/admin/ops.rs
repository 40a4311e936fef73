//! The operator's listener: `GET /livez` (the process answers), `/readyz` (it can work), `/metrics`
//! (Prometheus). Without tokens: it is bound where only operators reach it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

use crate::metrics::Scrape;

/// What must hold before the process is ready: named latches, each set and cleared by the room that knows.
#[derive(Debug, Default)]
pub struct Readiness {
    latches: Mutex<Vec<(&'static str, Arc<AtomicBool>)>>,
}

/// One condition of readiness; not met until it is set.
#[derive(Clone, Debug)]
pub struct Latch(Arc<AtomicBool>);

#[derive(Clone)]
struct OpsState {
    readiness: Arc<Readiness>,
    scrape: Scrape,
}

#[derive(Serialize)]
struct Ready {
    ready: bool,
    failing: Vec<&'static str>,
}

// === impl Readiness ===

impl Readiness {
    /// Without latches: ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition, not met yet. Asking for the same name again gives the same one.
    #[must_use]
    pub fn latch(&self, name: &'static str) -> Latch {
        let mut latches = self.latches.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, latch)) = latches.iter().find(|(other, _)| *other == name) {
            return Latch(Arc::clone(latch));
        }
        let latch = Arc::new(AtomicBool::new(false));
        latches.push((name, Arc::clone(&latch)));
        Latch(latch)
    }

    /// The names of the conditions that are not met.
    #[must_use]
    pub fn failing(&self) -> Vec<&'static str> {
        self.conditions().into_iter().filter(|(_, met)| !met).map(|(name, _)| name).collect()
    }

    /// Every condition, and whether it is met.
    #[must_use]
    pub fn conditions(&self) -> Vec<(&'static str, bool)> {
        let latches = self.latches.lock().unwrap_or_else(PoisonError::into_inner);
        latches.iter().map(|(name, met)| (*name, met.load(Ordering::Relaxed))).collect()
    }
}

// === impl Latch ===

impl Latch {
    /// Says whether the condition is met.
    pub fn set(&self, met: bool) {
        self.0.store(met, Ordering::Relaxed);
    }
}

// === routes ===

/// The routes of the operator's listener.
pub fn ops_router(readiness: Arc<Readiness>, scrape: Scrape) -> Router {
    Router::new()
        .route("/livez", get(|| async { Json(serde_json::json!({"alive": true})) }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(OpsState { readiness, scrape })
}

async fn ready(State(state): State<OpsState>) -> (StatusCode, Json<Ready>) {
    let failing = state.readiness.failing();
    let status = if failing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Ready { ready: failing.is_empty(), failing }))
}

async fn metrics(State(state): State<OpsState>) -> Response {
    // The text exposition format, version 0.0.4.
    let text = state.scrape.text(&state.readiness.conditions());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
