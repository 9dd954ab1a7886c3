//! The upload limit: requests that carry content wait until there is room for them, and their bodies then go out in
//! small pieces as the limiter allows. That is done below the signing, so that what is sent is what was signed.

use crate::sys::clock::{Clock, RealClock};
use crate::sys::limiter::Limiter;
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{Mutex, Notify};
use tokio::time::Sleep;

/// Bodies up to this size are paid for before they are sent, and go at once.
const SMALL: u64 = 4 << 10;

/// So much is under way at most, in seconds of the rate: well below what a request may take.
const UNDER_WAY_SECONDS: u64 = 10;

/// What the store and its connector share.
#[derive(Debug, Default)]
pub struct Pace {
    limiter: OnceLock<Arc<Limiter>>,
    /// Bytes of bodies that are being sent, or are about to be.
    under_way: AtomicU64,
    /// Bytes that were paid for before they are sent.
    paid: AtomicU64,
    /// Those who wait, in order.
    turn: Mutex<()>,
    room: Notify,
    /// Answers of the store so far, and when the last one came that was no error.
    answers: AtomicU64,
    took_ns: AtomicU64,
}

/// Room for a body, while it lives.
pub struct Room<'a>(&'a Pace, u64);

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(self.1, Ordering::AcqRel);
        self.0.room.notify_one();
    }
}

impl Pace {
    pub fn set(&self, limiter: &Arc<Limiter>) {
        // Whoever asks again has the same one.
        let _ = self.limiter.set(limiter.clone());
    }

    pub fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// Nanoseconds since the last answer that was no error.
    pub fn quiet_ns(&self) -> u64 {
        RealClock.monotonic_ns().saturating_sub(self.took_ns.load(Ordering::Relaxed))
    }

    /// The limiter and its rate, while there is one.
    fn limit(&self) -> Option<(&Arc<Limiter>, u64)> {
        let l = self.limiter.get()?;
        Some((l, l.rate().filter(|_| !l.is_stopped())?))
    }

    /// Waits until a body of this size can be sent within the time that a request has.
    pub async fn room(&self, bytes: usize) -> Option<Room<'_>> {
        let bytes = bytes as u64;
        self.limit()?;
        let _turn = self.turn.lock().await;
        loop {
            let (_, rate) = self.limit()?;
            let now = self.under_way.load(Ordering::Acquire);
            if now == 0 || now + bytes <= rate.saturating_mul(UNDER_WAY_SECONDS) {
                break;
            }
            // The rate may be changed meanwhile.
            let _ = tokio::time::timeout(Duration::from_millis(100), self.room.notified()).await;
        }
        self.under_way.fetch_add(bytes, Ordering::AcqRel);
        let room = Room(self, bytes);
        // What one request cannot send in its time is paid for before it begins.
        let (_, rate) = self.limit()?;
        let mut before = match bytes <= SMALL {
            true => bytes,
            false => bytes.saturating_sub(rate.saturating_mul(UNDER_WAY_SECONDS)),
        };
        while before > 0 {
            let Some((limiter, _)) = self.limit() else { break };
            let piece = before.min(limiter.piece() as u64);
            match limiter.take(piece) {
                None => {
                    before -= piece;
                    if bytes > SMALL {
                        self.paid.fetch_add(piece, Ordering::AcqRel);
                    }
                }
                Some(wait) => tokio::time::sleep(wait).await,
            }
        }
        Some(room)
    }

    /// True if some bytes were paid for before.
    fn was_paid(&self, bytes: u64) -> bool {
        self.paid.fetch_update(Ordering::AcqRel, Ordering::Acquire, |p| p.checked_sub(bytes)).is_ok()
    }
}

/// A client that paces what it sends.
pub fn client(inner: SharedHttpClient, pace: Arc<Pace>) -> SharedHttpClient {
    SharedHttpClient::new(PacedClient { inner, pace })
}

#[derive(Debug)]
struct PacedClient {
    inner: SharedHttpClient,
    pace: Arc<Pace>,
}

impl HttpClient for PacedClient {
    fn http_connector(&self, s: &HttpConnectorSettings, c: &RuntimeComponents) -> SharedHttpConnector {
        let inner = self.inner.http_connector(s, c);
        SharedHttpConnector::new(Connector { inner, pace: self.pace.clone() })
    }
}

#[derive(Debug)]
struct Connector {
    inner: SharedHttpConnector,
    pace: Arc<Pace>,
}

impl HttpConnector for Connector {
    fn call(&self, mut request: HttpRequest) -> HttpConnectorFuture {
        let long = |b: &&[u8]| b.len() as u64 > SMALL && self.pace.limit().is_some();
        if let Some(rest) = request.body().bytes().filter(long).map(Bytes::copy_from_slice) {
            let body = Paced { rest, pace: self.pace.clone(), wait: None };
            *request.body_mut() = SdkBody::from_body_1_x(body);
        }
        let (answer, pace) = (self.inner.call(request), self.pace.clone());
        HttpConnectorFuture::new(async move {
            let answer = answer.await;
            if let Ok(a) = &answer {
                pace.answers.fetch_add(1, Ordering::Relaxed);
                if a.status().is_success() {
                    pace.took_ns.store(RealClock.monotonic_ns(), Ordering::Relaxed);
                }
            }
            answer
        })
    }
}

/// A body that goes out as the limiter allows.
struct Paced {
    rest: Bytes,
    pace: Arc<Pace>,
    wait: Option<Pin<Box<Sleep>>>,
}

impl Body for Paced {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            if self.rest.is_empty() {
                return Poll::Ready(None);
            }
            if let Some(wait) = &mut self.wait {
                if wait.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                self.wait = None;
            }
            let all = self.rest.len();
            let Some(limiter) = self.pace.limiter.get().cloned() else {
                return Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(all)))));
            };
            if limiter.is_stopped() {
                let text = "the gateway is ending";
                return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::Interrupted, text))));
            }
            let n = limiter.piece().min(all);
            let wait = if self.pace.was_paid(n as u64) { None } else { limiter.take(n as u64) };
            match wait {
                None => return Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(n))))),
                Some(wait) => self.wait = Some(Box::pin(tokio::time::sleep(wait))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    }

    #[test]
    fn without_a_limit_nobody_waits() {
        let pace = Pace::default();
        runtime().block_on(async { assert!(pace.room(1 << 30).await.is_none()) });
    }

    #[test]
    fn more_than_fits_waits_for_its_turn() {
        let pace = Arc::new(Pace::default());
        pace.set(&Arc::new(Limiter::new(Some(1 << 20))));
        runtime().block_on(async {
            let first = pace.room(9 << 20).await;
            let soon = |n| tokio::time::timeout(Duration::from_millis(50), pace.room(n));
            assert!(soon(2 << 20).await.is_err(), "no room");
            assert!(soon(1 << 20).await.is_ok());
            drop(first);
            assert!(soon(2 << 20).await.is_ok());
        });
        assert_eq!(pace.under_way.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_body_goes_out_at_the_rate() {
        let pace = Arc::new(Pace::default());
        pace.set(&Arc::new(Limiter::new(Some(4 << 20))));
        let began = Instant::now();
        runtime().block_on(async {
            let rest = Bytes::from(vec![7; 2 << 20]);
            let mut body = Box::pin(Paced { rest, pace, wait: None });
            let mut all = 0;
            while let Some(f) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
                all += f.unwrap().into_data().unwrap().len();
            }
            assert_eq!(all, 2 << 20);
        });
        assert!(began.elapsed() > Duration::from_millis(350), "half a second's worth");
    }
}
