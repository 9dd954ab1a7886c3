//! The clients as rows: grouped, with their rates, in order.

use crate::control::render::plain;
use crate::control::status::Client;
use std::collections::HashMap;

/// Who runs a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub user: String,
    pub unit: String,
}

/// What a row stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Group {
    #[default]
    Process,
    Program,
    User,
    Unit,
}

impl Group {
    /// The one after it.
    pub fn next(self) -> Group {
        match self {
            Group::Process => Group::Program,
            Group::Program => Group::User,
            Group::User => Group::Unit,
            Group::Unit => Group::Process,
        }
    }
    pub fn name(self) -> &'static str {
        match self {
            Group::Process => "process",
            Group::Program => "program",
            Group::User => "user",
            Group::Unit => "unit",
        }
    }
}

/// What rows are ordered by, in the order of the columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Column {
    Name,
    Pid,
    Bytes,
    #[default]
    Rate,
    Dirty,
    Share,
    Reserved,
    Throttled,
    P99,
}

impl Column {
    pub const ALL: [Column; 9] = [
        Column::Name,
        Column::Pid,
        Column::Bytes,
        Column::Rate,
        Column::Dirty,
        Column::Share,
        Column::Reserved,
        Column::Throttled,
        Column::P99,
    ];

    /// The one after it.
    pub fn next(self) -> Column {
        let at = Column::ALL.iter().position(|c| *c == self).unwrap_or(0);
        Column::ALL[(at + 1) % Column::ALL.len()]
    }
    pub fn name(self) -> &'static str {
        match self {
            Column::Name => "name",
            Column::Pid => "pid",
            Column::Bytes => "bytes",
            Column::Rate => "rate",
            Column::Dirty => "dirty",
            Column::Share => "share",
            Column::Reserved => "reserved",
            Column::Throttled => "throttled",
            Column::P99 => "p99",
        }
    }
}

/// One client or group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    pub name: String,
    /// The process, or the number of processes of a group.
    pub pid: u32,
    pub bytes: u64,
    /// Bytes a second.
    pub rate: f64,
    pub dirty: u64,
    /// Of all dirty bytes.
    pub share: f64,
    pub reserved: u64,
    pub throttled: f64,
    /// The slowest client's.
    pub p99_us: u64,
    /// No process of it lives.
    pub ended: bool,
}

/// Bytes of each client, to tell rates by.
pub type Before = HashMap<String, u64>;

/// All rows in order; `span` is the time since `before` in seconds, 0 when there is no before.
pub fn rows(
    clients: &[Client],
    who: &HashMap<String, Identity>,
    (before, span): (&Before, f64),
    group: Group,
    (by, reverse): (Column, bool),
) -> Vec<Row> {
    let mut all: Vec<Row> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for c in clients {
        let unknown = || if c.ended { "(ended)".to_owned() } else { "(unknown)".to_owned() };
        let name = match group {
            Group::Process | Group::Program => plain(&c.program),
            Group::User => who.get(&c.client).map_or_else(unknown, |i| plain(&i.user)),
            Group::Unit => who.get(&c.client).map_or_else(unknown, |i| plain(&i.unit)),
        };
        let key = if group == Group::Process { c.client.clone() } else { name.clone() };
        let at = *places.entry(key).or_insert_with(|| {
            all.push(Row { name, ended: true, ..Row::default() });
            all.len() - 1
        });
        let row = &mut all[at];
        row.pid = if group == Group::Process { c.pid } else { row.pid + !c.ended as u32 };
        row.bytes += c.bytes;
        // A client that is new wrote all it has since.
        let new = c.bytes.saturating_sub(before.get(&c.client).copied().unwrap_or(0));
        row.rate += if span > 0.0 { new as f64 / span } else { 0.0 };
        row.dirty += c.dirty_bytes;
        row.share += c.share;
        row.reserved += c.reserved_bytes;
        row.throttled += c.throttled_seconds;
        row.p99_us = row.p99_us.max(c.p99_us);
        row.ended &= c.ended;
    }
    all.sort_by(|a, b| {
        let order = match by {
            // Names and numbers run upwards, amounts begin with the largest.
            Column::Name => a.name.cmp(&b.name),
            Column::Pid => a.pid.cmp(&b.pid),
            Column::Bytes => b.bytes.cmp(&a.bytes),
            Column::Rate => b.rate.total_cmp(&a.rate),
            Column::Dirty => b.dirty.cmp(&a.dirty),
            Column::Share => b.share.total_cmp(&a.share),
            Column::Reserved => b.reserved.cmp(&a.reserved),
            Column::Throttled => b.throttled.total_cmp(&a.throttled),
            Column::P99 => b.p99_us.cmp(&a.p99_us),
        };
        let order = if reverse { order.reverse() } else { order };
        order.then(b.bytes.cmp(&a.bytes)).then_with(|| a.name.cmp(&b.name)).then(a.pid.cmp(&b.pid))
    });
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(pid: u32, program: &str, bytes: u64) -> Client {
        let client = format!("{pid}:1");
        Client {
            client,
            pid,
            program: program.into(),
            bytes,
            dirty_bytes: bytes / 2,
            share: 0.25,
            ..Client::default()
        }
    }

    #[test]
    fn rows_are_grouped_with_sums_and_rates() {
        let mut clients = vec![client(1, "tar", 100), client(2, "tar", 300), client(3, "git", 50)];
        clients[1].ended = true;
        clients[1].p99_us = 70;
        let id = |user: &str| Identity { user: user.into(), unit: "a.service".into() };
        let who = HashMap::from([("1:1".into(), id("joe")), ("3:1".into(), id("joe"))]);
        let before = HashMap::from([("1:1".to_owned(), 60), ("2:1".to_owned(), 300)]);
        let of = |group, order| rows(&clients, &who, (&before, 2.0), group, order);
        let by_program = of(Group::Program, (Column::Bytes, false));
        assert_eq!(
            by_program.iter().map(|r| (&*r.name, r.bytes, r.pid)).collect::<Vec<_>>(),
            [("tar", 400, 1), ("git", 50, 1)]
        );
        assert_eq!((by_program[0].rate, by_program[1].rate, by_program[0].p99_us), (20.0, 25.0, 70));
        let by_user = of(Group::User, (Column::Rate, false));
        assert_eq!(
            by_user.iter().map(|r| (&*r.name, r.rate)).collect::<Vec<_>>(),
            [("joe", 45.0), ("(ended)", 0.0)]
        );
        assert_eq!(of(Group::Unit, (Column::Name, true))[0].name, "a.service");
        let by_process = of(Group::Process, (Column::Pid, true));
        assert_eq!(by_process.iter().map(|r| r.pid).collect::<Vec<_>>(), [3, 2, 1]);
        assert!(by_process[1].ended && !by_process[0].ended);
    }

    #[test]
    fn all_columns_and_groups_are_reached() {
        let mut column = Column::Name;
        (0..9).for_each(|_| column = column.next());
        assert_eq!(column, Column::Name);
        assert_eq!(Group::Process.next().next().next().next(), Group::Process);
    }
}
