//! Colours that those who see few of them can tell apart (blue and yellow), and none where NO_COLOR is set. What a
//! colour says, a letter or a shade says too.

use ratatui::style::{Color, Modifier, Style};

/// The styles of the view.
#[derive(Clone, Copy, Debug)]
pub struct Paint {
    colours: bool,
}

impl Paint {
    /// As <https://no-color.org> has it: any value but the empty one turns colours off.
    pub fn of_environment() -> Paint {
        Paint { colours: std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) }
    }

    #[cfg(test)]
    pub fn with(colours: bool) -> Paint {
        Paint { colours }
    }

    fn of(self, colour: Color) -> Style {
        if self.colours { Style::new().fg(colour) } else { Style::new() }
    }

    /// What was written.
    pub fn written(self) -> Style {
        self.of(Color::LightBlue)
    }
    /// What is forecast.
    pub fn forecast(self) -> Style {
        self.of(Color::Yellow)
    }
    /// What stands ready.
    pub fn reserve(self) -> Style {
        self.of(Color::Cyan)
    }
    /// Less important.
    pub fn quiet(self) -> Style {
        self.of(Color::DarkGray)
    }
    /// To be seen first.
    pub fn alarm(self) -> Style {
        self.of(Color::Yellow).add_modifier(Modifier::BOLD | Modifier::REVERSED)
    }
    /// A heading.
    pub fn head(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }
    /// A heading that is chosen.
    pub fn chosen(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED)
    }
    /// The line with the keys.
    pub fn keys(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }
}
