//! `forelog man`: the manual page, or that of one verb.

use super::args::{Cli, ManArgs};
use super::output;
use crate::control::Verdict;
use clap::CommandFactory;

/// Runs the verb.
pub fn run(args: &ManArgs) -> Verdict {
    let mut page = Cli::command();
    // Gives each verb its full name, `forelog-mount`.
    page.build();
    if let Some(verb) = &args.verb {
        match page.find_subcommand(verb) {
            Some(found) => page = found.clone(),
            None => {
                let verbs: Vec<&str> = page.get_subcommands().map(|c| c.get_name()).collect();
                let message = format!("man: no such verb '{verb}'; there are: {}", verbs.join(", "));
                return Verdict { code: 1, message };
            }
        }
    }
    let mut roff = Vec::new();
    match clap_mangen::Man::new(page).render(&mut roff) {
        Ok(()) => output::print(&String::from_utf8_lossy(&roff)),
        Err(e) => Verdict::refused(format!("man: {e}")),
    }
}
