//! How an undo went.

/// How it went.
#[derive(Default)]
pub struct Done {
    pub restored: u64,
    pub bytes: u64,
    pub attributes: u64,
    pub same: u64,
    pub removed: u64,
    pub left: u64,
    pub failed: u64,
}

impl Done {
    /// In one line.
    pub fn text(&self, dry: bool, elsewhere: bool) -> String {
        let would = if dry { "would be " } else { "" };
        let mut parts = vec![format!(
            "{} {would}{} ({} bytes)",
            self.restored,
            if elsewhere { "written" } else { "restored" },
            self.bytes
        )];
        for (n, what) in [
            (self.attributes, "only in their attributes"),
            (self.same, "as they were"),
            (self.removed, "removed that did not exist then"),
            (self.left, "left that did not exist then (--delete removes them)"),
            (self.failed, "CANNOT be restored, see above"),
        ] {
            if n > 0 {
                parts.push(format!("{n} {what}"));
            }
        }
        parts.join(", ")
    }
}
