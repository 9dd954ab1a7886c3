//! The decision rule (PREDICTION.md section 3): size by the age seal, count by the newsvendor, and one
//! knapsack over all owners under the cap.

use super::cost::COUNT_MAX;
use super::demand::{Demand, clients_that_matter, demands};
use super::{Action, Costs, Limits, Owner, OwnerState, PoolState, best_count, cost};
use crate::predict::{Distribution, Forecast};

/// The plan of one owner while it is made.
struct Want {
    owner: Owner,
    now: OwnerState,
    segment_bytes: u64,
    demand: Distribution,
    /// Left in the open segment, if that will not be sealed by age within the horizon.
    room_bytes: u64,
    /// Ready segments that stay, and what goes back.
    kept: Vec<u64>,
    released: Vec<u64>,
    added: u32,
    /// A birth's segment is taken ahead of the knapsack, and stays while its lease does.
    born: bool,
    leased: bool,
}

/// What to do now: resizes, then releases, then reserves. Pure.
pub fn decide(forecast: &Forecast, pool: &PoolState, costs: &Costs, limits: &Limits) -> Vec<Action> {
    if forecast.fallback.is_some() {
        return fixed(forecast, pool, limits, limits.class_up(limits.segment_bytes_static as f64));
    }
    if limits.one_segment {
        return fixed(forecast, pool, limits, limits.class_up(forecast.total.q99));
    }
    let mut wants: Vec<Want> =
        demands(forecast, pool, limits).into_iter().map(|d| want(d, forecast, pool, costs, limits)).collect();
    for w in &mut wants {
        shed(w, forecast.horizon_ns, costs);
    }
    let mut reserved: u64 = wants.iter().map(|w| w.kept.iter().sum::<u64>()).sum();
    cut_to_cap(&mut wants, &mut reserved, limits);
    fill(&mut wants, reserved, forecast.horizon_ns, costs, limits);
    keep_until_replaced(&mut wants, limits);
    actions(&wants, pool)
}

fn state_of(pool: &PoolState, owner: Owner) -> OwnerState {
    pool.owners.iter().find(|o| o.owner == owner).cloned().unwrap_or_else(|| OwnerState::new(owner))
}

fn want(d: Demand, forecast: &Forecast, pool: &PoolState, costs: &Costs, limits: &Limits) -> Want {
    let now = state_of(pool, d.owner);
    let ages = now.open_age_ns.unwrap_or(0).saturating_add(forecast.horizon_ns) >= limits.seal_after_ns;
    let room_bytes = if ages && now.open_age_ns.is_some() { 0 } else { now.room_bytes };
    // Two segments in the age at which they are sealed: one that is hardly filled then is memory that lies idle.
    let seal_bytes = forecast.seal_bytes_q50.min(forecast.credible_bytes as f64) * d.share;
    let base = limits.class_up(seal_bytes / 2.0);
    let rest = match (d.bytes.after(now.taken_bytes as f64), d.bytes.after(now.burst_bytes as f64)) {
        (Some(fresh), Some(of_burst)) if of_burst.expected_bytes > fresh.expected_bytes => Some(of_burst),
        (fresh, _) => fresh,
    };
    // A burst larger than the forecast knows of is taken to bring as much again.
    let again = if rest.is_none() { (forecast.actual_bytes + now.taken_bytes) as f64 } else { 0.0 };
    let bytes = d.bytes.q99.max(again).max(rest.as_ref().map_or(0.0, |r| r.q99));
    let mut segment_bytes = leanest(bytes, base, forecast.horizon_ns, costs, limits);
    if rest.is_none() || (pool.missed > 0 && now.taken_bytes > 0) {
        segment_bytes =
            segment_bytes.max(costs.swift_class(limits.segment_bytes_min, limits.segment_bytes_max));
    }
    let worth = costs.worth_holding(segment_bytes, bytes, forecast.horizon_ns);
    let next = now.segment_bytes.max(segment_bytes) as f64;
    let room = room_bytes as f64;
    let mut demand = rest.unwrap_or_else(|| Distribution::point(room + again.min(worth).max(next)));
    demand.clip(worth.max(room + next));
    // Beside what is left of the open segment: how much that is when something comes is chance.
    if d.owner == Owner::Shared && limits.floor_bytes > 0 && demand.q99 < room + limits.floor_bytes as f64 {
        demand = Distribution::point(room + limits.floor_bytes as f64);
    }
    segment_bytes = segment_bytes.max(limits.class_up(d.born_bytes as f64));
    // Down by one class a second, up at once.
    let floor = if now.may_shrink { now.segment_bytes / 2 } else { now.segment_bytes };
    segment_bytes = segment_bytes.max(limits.class_up(floor as f64));
    let mut kept: Vec<u64> =
        now.ready.iter().flat_map(|(class, count)| std::iter::repeat_n(*class, *count as usize)).collect();
    kept.sort_unstable();
    let born = d.born_bytes > 0 && kept.is_empty() && now.open_age_ns.is_none() && now.room_bytes == 0;
    Want {
        owner: d.owner,
        now,
        segment_bytes,
        demand,
        room_bytes,
        kept,
        released: Vec::new(),
        added: 0,
        born,
        leased: d.born_bytes > 0,
    }
}

/// The class with which the least is to be held for a burst of so many bytes; of equal ones the largest that is
/// made nearly as soon as the smallest.
fn leanest(bytes: f64, base: u64, horizon_ns: u64, costs: &Costs, limits: &Limits) -> u64 {
    let mut best = (f64::INFINITY, limits.class_up(bytes / COUNT_MAX as f64).max(base));
    let swift = costs.swift_class(limits.segment_bytes_min, limits.segment_bytes_max);
    let mut class = base;
    while class <= limits.segment_bytes_max {
        let count = (costs.worth_holding(class, bytes, horizon_ns).min(bytes) / class as f64).ceil();
        let held = count * class as f64;
        if count <= COUNT_MAX as f64 && (held < best.0 || (held == best.0 && held > 0.0 && class <= swift)) {
            best = (held, class);
        }
        class *= 2;
    }
    best.1
}

impl Want {
    fn held(&self) -> u64 {
        self.room_bytes + self.kept.iter().sum::<u64>() + self.added as u64 * self.segment_bytes
    }
    fn cost_of(&self, held: u64, horizon_ns: u64, costs: &Costs) -> f64 {
        cost(&self.demand, held, self.segment_bytes, horizon_ns, costs)
    }
    /// What one more segment saves.
    fn saving(&self, horizon_ns: u64, costs: &Costs) -> f64 {
        if self.kept.len() as u32 + self.added >= COUNT_MAX {
            return 0.0;
        }
        let held = self.held();
        self.cost_of(held, horizon_ns, costs) - self.cost_of(held + self.segment_bytes, horizon_ns, costs)
    }
}

/// Gives back what is not worth its memory, the most wasteful first, at most three quarters of the bytes in a second.
fn shed(w: &mut Want, horizon_ns: u64, costs: &Costs) {
    if !w.now.may_shrink || w.now.taken_bytes > 0 {
        return;
    }
    let start: u64 = w.kept.iter().sum();
    loop {
        let all: u64 = w.kept.iter().sum();
        let now = w.cost_of(w.room_bytes + all, horizon_ns, costs);
        let saved = |class: u64| {
            let rest = w.room_bytes + all - class;
            let n = best_count(&w.demand, rest, w.segment_bytes, horizon_ns, costs);
            now - w.cost_of(rest + n as u64 * w.segment_bytes, horizon_ns, costs)
        };
        let best = (0..w.kept.len())
            .filter(|i| *i == 0 || w.kept[*i] != w.kept[i - 1])
            .map(|i| (saved(w.kept[i]), i))
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let Some((saved, i)) = best else { return };
        let after = all - w.kept[i];
        if saved <= 0.0 || (after * 4 < start && !w.released.is_empty()) || (w.leased && after == 0) {
            return;
        }
        w.released.push(w.kept.remove(i));
    }
}

/// What others are to replace goes back only once those are ready, in a later step, if memory allows.
fn keep_until_replaced(wants: &mut [Want], limits: &Limits) {
    let mut reserved: u64 =
        wants.iter().map(|w| w.kept.iter().sum::<u64>() + w.added as u64 * w.segment_bytes).sum();
    for w in wants.iter_mut().filter(|w| w.added > 0) {
        let back: u64 = w.released.iter().sum();
        if reserved + back <= limits.reserve_bytes_max {
            reserved += back;
            w.kept.append(&mut w.released);
        }
    }
}

/// A cap that was lowered binds at once.
fn cut_to_cap(wants: &mut [Want], reserved: &mut u64, limits: &Limits) {
    while *reserved > limits.reserve_bytes_max {
        let Some(w) = wants.iter_mut().max_by_key(|w| w.kept.last().copied().unwrap_or(0)) else { return };
        let Some(class) = w.kept.pop() else { return };
        w.released.push(class);
        *reserved -= class;
    }
}

/// The next segment always goes where it saves most.
fn fill(wants: &mut [Want], mut reserved: u64, horizon_ns: u64, costs: &Costs, limits: &Limits) {
    for w in wants.iter_mut().filter(|w| w.born) {
        if reserved + w.segment_bytes <= limits.reserve_bytes_max {
            reserved += w.segment_bytes;
            w.added += 1;
        }
    }
    loop {
        let fits = |w: &&mut Want| reserved + w.segment_bytes <= limits.reserve_bytes_max;
        let best = wants
            .iter_mut()
            .filter(fits)
            .map(|w| (w.saving(horizon_ns, costs), w))
            .max_by(|a, b| a.0.total_cmp(&b.0));
        match best {
            Some((saving, w)) if saving > 0.0 => {
                reserved += w.segment_bytes;
                w.added += 1;
            }
            _ => return,
        }
    }
}

fn actions(wants: &[Want], pool: &PoolState) -> Vec<Action> {
    let mut out = Vec::new();
    for w in wants.iter().filter(|w| w.segment_bytes != w.now.segment_bytes) {
        out.push(Action::Resize { owner: w.owner, segment_bytes: w.segment_bytes });
    }
    for o in pool.owners.iter().filter(|o| !wants.iter().any(|w| w.owner == o.owner)) {
        dismiss(o, &mut out);
    }
    for w in wants {
        for class_bytes in &w.released {
            push_release(&mut out, w.owner, *class_bytes, 1);
        }
    }
    for w in wants.iter().filter(|w| w.added > 0) {
        out.push(Action::Reserve { owner: w.owner, class_bytes: w.segment_bytes, count: w.added });
    }
    out
}

/// A client that no longer matters returns to the shared segment.
fn dismiss(o: &OwnerState, out: &mut Vec<Action>) {
    if o.segment_bytes != 0 {
        out.push(Action::Resize { owner: o.owner, segment_bytes: 0 });
    }
    for (class_bytes, count) in &o.ready {
        push_release(out, o.owner, *class_bytes, *count);
    }
}

fn push_release(out: &mut Vec<Action>, owner: Owner, class_bytes: u64, count: u32) {
    if count == 0 {
        return;
    }
    if let Some(Action::Release { owner: o, class_bytes: c, count: n }) = out.last_mut()
        && (*o, *c) == (owner, class_bytes)
    {
        *n += count;
        return;
    }
    out.push(Action::Release { owner, class_bytes, count });
}

/// Fallback: one size and a few spares, which all share. Clients that matter keep segments of their own,
/// so that one process's fsync does not wait for another's bulk.
fn fixed(forecast: &Forecast, pool: &PoolState, limits: &Limits, size: u64) -> Vec<Action> {
    let own = clients_that_matter(forecast, pool, limits);
    let owners = std::iter::once(Owner::Shared).chain(own.into_iter().map(Owner::Client));
    let owners: Vec<Owner> = owners.collect();
    let mut out = Vec::new();
    for owner in &owners {
        if state_of(pool, *owner).segment_bytes != size {
            out.push(Action::Resize { owner: *owner, segment_bytes: size });
        }
    }
    let spares = (limits.reserve_bytes_max / size).min(limits.spares_static as u64) as u32;
    let mut missing = spares;
    for o in &pool.owners {
        if !owners.contains(&o.owner) {
            dismiss(o, &mut out);
            continue;
        }
        for (class_bytes, count) in &o.ready {
            let fits = o.owner == Owner::Shared && *class_bytes == size;
            let keep = if fits { missing.min(*count) } else { 0 };
            missing -= keep;
            push_release(&mut out, o.owner, *class_bytes, count - keep);
        }
    }
    if missing > 0 {
        out.push(Action::Reserve { owner: Owner::Shared, class_bytes: size, count: missing });
    }
    out
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
