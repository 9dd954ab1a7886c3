//! Who gets segments of its own, and what each owner is expected to write.

use super::{Limits, Owner, PoolState};
use crate::predict::{Distribution, Forecast};
use crate::types::ClientId;

/// A client matters when it wrote this many smallest segments of late and this part of all bytes. One
/// that already has its own keeps it down to half of both.
const SEGMENTS_MIN: f64 = 4.0;
const SHARE_MIN: f64 = 1.0 / 16.0;
/// Most processes that write are gone in a second: one must have lived this long, or flood.
const AGE_NS_MIN: u64 = 2_000_000_000;
const FLOOD_SEGMENTS: f64 = 64.0;

/// What one owner is expected to write in the horizon.
pub struct Demand {
    pub owner: Owner,
    pub bytes: Distribution,
    /// Its part of all bytes expected.
    pub share: f64,
    /// A size its reserve must at least have, for a client just born.
    pub born_bytes: u64,
}

/// The clients that matter, at most `limits.clients_max`.
pub fn clients_that_matter(forecast: &Forecast, pool: &PoolState, limits: &Limits) -> Vec<ClientId> {
    let bytes_min = SEGMENTS_MIN * limits.segment_bytes_min as f64;
    let has_own =
        |client| pool.owners.iter().any(|o| o.owner == Owner::Client(client) && o.segment_bytes > 0);
    let matters = |c: &&crate::predict::ClientForecast| {
        let need = if has_own(c.client) { 0.5 } else { 1.0 };
        let floods = c.recent_bytes >= FLOOD_SEGMENTS * limits.segment_bytes_min as f64;
        c.recent_bytes >= need * bytes_min
            && c.share >= need * SHARE_MIN
            && (floods || c.age_ns >= AGE_NS_MIN)
    };
    forecast.clients.iter().filter(matters).take(limits.clients_max).map(|c| c.client).collect()
}

/// Not more than is worth waiting for.
fn credible(bytes: &Distribution, forecast: &Forecast) -> Distribution {
    let mut d = bytes.clone();
    d.clip(forecast.credible_bytes as f64);
    d
}

/// Demands of all owners by the forecast, `Shared` first.
pub fn demands(forecast: &Forecast, pool: &PoolState, limits: &Limits) -> Vec<Demand> {
    let own = clients_that_matter(forecast, pool, limits);
    let mut all = Vec::with_capacity(own.len() + 2);
    let mut rest = 1.0;
    for client in &own {
        if let Some(c) = forecast.clients.iter().find(|c| c.client == *client) {
            rest -= c.share;
            let (owner, bytes) = (Owner::Client(*client), credible(&c.distribution, forecast));
            all.push(Demand { owner, bytes, share: c.share, born_bytes: 0 });
        }
    }
    let rest = rest.clamp(0.0, 1.0);
    // Not less what own clients are to write: one may end at any moment, and its successor starts in the
    // shared segment. Measured: 1 stall instead of 6 for 0.6 MiB more.
    let shared = credible(&forecast.total, forecast);
    all.insert(0, Demand { owner: Owner::Shared, bytes: shared, share: rest, born_bytes: 0 });
    for lease in &forecast.births {
        let owner = Owner::Client(lease.client);
        if (lease.bytes as f64) < limits.segment_bytes_min as f64 {
            continue;
        }
        if let Some(d) = all.iter_mut().find(|d| d.owner == owner) {
            d.born_bytes = lease.bytes;
        } else if all.len() <= limits.clients_max {
            let bytes = Distribution::point(0.0);
            all.push(Demand { owner, bytes, share: 0.0, born_bytes: lease.bytes });
        }
    }
    all
}
