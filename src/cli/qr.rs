//! QR codes in the terminal, for what a phone opens faster than a person types it: the address of a sign-in page, or the
//! secret of an authenticator app (`otpauth://…`). Two modules per character (half blocks).

use std::io::IsTerminal as _;

use qrcode::{Color, EcLevel, QrCode};

/// Modules of silence around a code that readers count on: <https://www.qrcode.com/en/howto/code.html>.
const QUIET: usize = 4;
/// Black on white, whatever the terminal's own colours are.
const COLOURS: (&str, &str) = ("\x1b[30;107m", "\x1b[0m");

/// Lines of a code for stderr; `None` where the text is longer than a code holds.
pub fn for_stderr(text: &str) -> Option<String> {
    let has_colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    lines(text, has_colours)
}

/// Without colours the light modules are drawn, as is right for light letters on a dark ground.
fn lines(text: &str, has_colours: bool) -> Option<String> {
    // The least redundancy: on a screen nothing is scratched, and fewer modules fit more terminals.
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    let (width, colours) = (code.width(), code.to_colors());
    let is_drawn = |row: usize, column: usize| {
        let inside = |at: usize| at.checked_sub(QUIET).filter(|at| *at < width);
        let module = inside(row).zip(inside(column)).map(|(row, column)| colours[row * width + column]);
        (module == Some(Color::Dark)) == has_colours
    };
    let side = width + 2 * QUIET;
    let mut drawn = String::new();
    for row in (0..side).step_by(2) {
        let cells = (0..side).map(|column| match (is_drawn(row, column), is_drawn(row + 1, column)) {
            (true, true) => '█',
            (true, false) => '▀',
            (false, true) => '▄',
            (false, false) => ' ',
        });
        let cells: String = cells.collect();
        if has_colours {
            drawn.extend([COLOURS.0, &cells, COLOURS.1, "\n"]);
        } else {
            drawn.extend([cells.trim_end(), "\n"]);
        }
    }
    Some(drawn)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What a reader sees: true where ink is.
    fn read(drawn: &str, ink_is_dark: bool) -> String {
        let plain = drawn.replace(COLOURS.0, "").replace(COLOURS.1, "");
        let rows: Vec<Vec<char>> = plain.lines().map(|line| line.chars().collect()).collect();
        let side = rows[0].len().max(rows.len() * 2 - 1);
        const SCALE: usize = 4;
        let dark = |x: usize, y: usize| {
            let cell = rows[y / SCALE / 2].get(x / SCALE).copied().unwrap_or(' ');
            let is_upper = (y / SCALE).is_multiple_of(2);
            let has_ink = cell == '█' || (cell == '▀' && is_upper) || (cell == '▄' && !is_upper);
            has_ink == ink_is_dark
        };
        let mut image = rqrr::PreparedImage::prepare_from_greyscale(side * SCALE, (side - 1) * SCALE, |x, y| {
            if dark(x, y) { 0 } else { 255 }
        });
        let grids = image.detect_grids();
        assert_eq!(grids.len(), 1, "one code in:\n{plain}");
        grids[0].decode().unwrap().1
    }

    #[test]
    fn a_reader_reads_what_was_written() {
        for text in [
            "otpauth://totp/photos:ana@example.com?secret=JBSWY3DPEHPK3PXP&issuer=photos",
            &format!("https://photos.auth.us-east-1.amazoncognito.com/oauth2/authorize?state={}", "s".repeat(500)),
        ] {
            assert_eq!(read(&lines(text, true).unwrap(), true), text);
            assert_eq!(read(&lines(text, false).unwrap(), false), text);
        }
        assert_eq!(lines(&"x".repeat(3_000), true), None);
    }
}
