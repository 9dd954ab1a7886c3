//! What the view knows and how it changes; no terminal in it.

use super::fetch::{Identities, News};
use super::paint::Paint;
use super::rows::{Before, Column, Group, Row, rows};
use crate::control::series::Point;
use crate::control::status::Status;
use std::collections::VecDeque;

/// Seconds shown at most: more than the widest terminal has columns.
const POINTS_MAX: usize = 1024;

/// A key that means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Char(char),
    /// So many rows down, or up.
    Rows(isize),
}

/// What a key asks of the world outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Quit,
    Flush,
}

/// The state of the view.
pub struct App {
    pub paint: Paint,
    pub status: Option<Box<Status>>,
    pub points: VecDeque<Point>,
    pub rows: Vec<Row>,
    /// Why the gateway cannot be asked.
    pub gone: Option<String>,
    pub flush: Option<String>,
    pub group: Group,
    pub sort: (Column, bool),
    pub paused: bool,
    /// First row that is shown.
    pub top: usize,
    who: Identities,
    before: (Before, f64),
}

impl App {
    /// Nothing seen yet.
    pub fn new(paint: Paint) -> App {
        App {
            paint,
            status: None,
            points: VecDeque::new(),
            rows: Vec::new(),
            gone: None,
            flush: None,
            group: Group::default(),
            sort: Default::default(),
            paused: false,
            top: 0,
            who: Identities::default(),
            before: Default::default(),
        }
    }

    /// Takes news in. While paused the points go on, so that no gap is left.
    pub fn take(&mut self, news: News) {
        match news {
            News::Flush(text) => self.flush = Some(text),
            News::Gone(why) => self.gone = Some(why),
            News::Seen(status, part, who) => {
                self.gone = None;
                if self.status.as_ref().is_some_and(|s| s.pid != status.pid) {
                    // Another gateway: its counts begin anew.
                    self.points.clear();
                    self.status = None;
                }
                self.points.extend(part.points);
                while self.points.len() > POINTS_MAX {
                    self.points.pop_front();
                }
                if self.paused {
                    return;
                }
                if let Some(last) = &self.status {
                    let bytes = last.clients.iter().map(|c| (c.client.clone(), c.bytes)).collect();
                    self.before = (bytes, (status.uptime_seconds - last.uptime_seconds).max(0.0));
                }
                self.who = who;
                self.status = Some(status);
                self.arrange();
            }
        }
    }

    /// Puts the rows in order anew.
    fn arrange(&mut self) {
        let clients = self.status.as_ref().map_or(&[][..], |s| &s.clients);
        let before = (&self.before.0, self.before.1);
        self.rows = rows(clients, &self.who, before, self.group, self.sort);
        self.top = self.top.min(self.rows.len().saturating_sub(1));
    }

    /// A key was pressed.
    pub fn press(&mut self, key: Key) -> Option<Wish> {
        match key {
            Key::Char('q') => return Some(Wish::Quit),
            Key::Char('f') => return Some(Wish::Flush),
            Key::Char('s') => self.sort = (self.sort.0.next(), false),
            Key::Char('r') => self.sort.1 = !self.sort.1,
            Key::Char('g') => self.group = self.group.next(),
            Key::Char('p' | ' ') => self.paused = !self.paused,
            Key::Char(_) => return None,
            Key::Rows(n) => self.top = self.top.saturating_add_signed(n),
        }
        self.arrange();
        None
    }
}
