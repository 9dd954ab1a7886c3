//! `forelog --version`: what this build is, and what this kernel offers it.

use std::sync::LazyLock;

/// Version of the log that this build writes, and the oldest it takes over.
const FORMATS: &str = "log format 3 (2 is taken over)";

static LONG: LazyLock<String> = LazyLock::new(|| {
    let commit = match env!("FORELOG_COMMIT") {
        "" => "not known",
        known => known,
    };
    let features = if cfg!(feature = "testing") { "testing" } else { "none" };
    let rings = match crate::sys::uring::offered() {
        Ok(()) => "offered by this kernel".to_owned(),
        Err(why) => format!("not here: {why}"),
    };
    format!(
        "{}\ncommit    {commit}\ntarget    {} ({})\nfeatures  {features}\nwrites    {FORMATS}\nFUSE      fuser 0.18.0; \
         io_uring {rings}",
        env!("CARGO_PKG_VERSION"),
        env!("FORELOG_TARGET"),
        env!("FORELOG_PROFILE"),
    )
});

/// The text behind the program's name.
pub fn long() -> &'static str {
    LONG.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_it_is_built_from() {
        let text = long();
        assert!(text.starts_with(concat!(env!("CARGO_PKG_VERSION"), "\n")), "{text}");
        assert!(include_str!("../../Cargo.toml").contains("\nfuser = \"=0.18.0\"\n"));
        assert!(
            FORMATS.starts_with(&format!("log format {} ", crate::format::segment::VERSION)),
            "{FORMATS}"
        );
        for word in ["commit", "target", "features", "io_uring"] {
            assert!(text.contains(word), "{word}");
        }
    }
}
