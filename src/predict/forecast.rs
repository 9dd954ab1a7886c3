//! What the Predictive Log Manager says at a tick.

use super::{Distribution, Fallback};
use crate::types::{ClientId, ProgramId};

/// Forecast of one program; `program` is `None` for the pool of all others.
#[derive(Clone, Debug, PartialEq)]
pub struct ProgramForecast {
    pub program: Option<ProgramId>,
    pub expected_bytes: f64,
    /// Expected share of this program in the bytes of the horizon.
    pub share: f64,
    pub distribution: Distribution,
}

/// Forecast of one live client: its program's, by its part in it.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientForecast {
    pub client: ClientId,
    pub program: ProgramId,
    pub expected_bytes: f64,
    /// Bytes it wrote lately (5 s half-life), and that in parts of all such bytes.
    pub recent_bytes: f64,
    /// Since its first write, while it was live.
    pub age_ns: u64,
    pub share: f64,
    pub distribution: Distribution,
}

/// A client that just appeared and what nine in ten of its kind write in their first second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BirthLease {
    pub client: ClientId,
    pub program: ProgramId,
    pub bytes: u64,
    /// When what was reserved for it goes back, monotonic nanoseconds.
    pub until_ns: u64,
}

/// A forecast for the horizon that starts at `at_ns`.
#[derive(Clone, Debug, PartialEq)]
pub struct Forecast {
    pub at_ns: u64,
    pub horizon_ns: u64,
    /// Name of the model that speaks.
    pub model: String,
    /// 0..1: by how much it was cheaper than static sizing of late.
    pub confidence: f64,
    /// Why sizing is static now, if it is.
    pub fallback: Option<Fallback>,
    pub expected_requests: f64,
    /// Mean bytes of a request.
    pub expected_request_bytes: f64,
    pub expected_bytes: f64,
    /// What came in the horizon that ended now.
    pub actual_requests: u64,
    pub actual_bytes: u64,
    /// Bytes of all clients.
    pub total: Distribution,
    /// The .95 and .99 quantiles as reported, [`super::Band`].
    pub band: (f64, f64),
    /// Median bytes over the age at which segments are sealed.
    pub seal_bytes_q50: f64,
    /// Most bytes ever seen in a horizon.
    pub largest_bytes: u64,
    /// Most bytes worth waiting for: models expect a flood for as long as they remember the last one.
    pub credible_bytes: u64,
    pub programs: Vec<ProgramForecast>,
    pub clients: Vec<ClientForecast>,
    pub births: Vec<BirthLease>,
    /// Decayed mean log-loss of the program forecast, nats.
    pub client_log_loss_nats: f64,
}

impl Forecast {
    /// A forecast of nothing, for before the first tick.
    pub fn none(horizon_ns: u64) -> Self {
        Forecast {
            at_ns: 0,
            horizon_ns,
            model: "static".into(),
            confidence: 0.0,
            fallback: Some(Fallback::ShortHistory { seconds: 0.0, bursts: 0 }),
            expected_requests: 0.0,
            expected_request_bytes: 0.0,
            expected_bytes: 0.0,
            actual_requests: 0,
            actual_bytes: 0,
            total: Distribution::point(0.0),
            band: (0.0, 0.0),
            seal_bytes_q50: 0.0,
            largest_bytes: 0,
            credible_bytes: u64::MAX,
            programs: Vec::new(),
            clients: Vec::new(),
            births: Vec::new(),
            client_log_loss_nats: 0.0,
        }
    }
}
