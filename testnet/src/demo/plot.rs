//! The demo's figure, loss over local steps, drawn twice: with characters for the terminal, and as an SVG file.
//! It draws one curve and levels beside it; it is no plotting library.

use std::fmt::Write;

/// What is drawn.
#[derive(Debug, Clone)]
pub struct Figure {
    /// The curve: local steps and loss.
    pub curve: Vec<(f64, f64)>,
    /// What the curve is.
    pub curve_name: String,
    /// Levels to compare it with, by name.
    pub levels: Vec<(String, f64)>,
    /// What the axes hold.
    pub x_label: String,
    /// The same, upwards.
    pub y_label: String,
}

/// Characters inside of the frame.
const COLUMNS: usize = 60;
const ROWS: usize = 16;

/// Colours that people with any colour vision tell apart (Okabe and Ito 2008); the first is the curve's.
const COLOURS: [&str; 6] = ["#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00"];

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 230.0;
const TOP: f64 = 24.0;
const BOTTOM: f64 = 56.0;

/// A range of numbers laid on a length.
#[derive(Clone, Copy)]
struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

impl Axis {
    /// An axis with round ticks that holds all values.
    fn over(values: impl Iterator<Item = f64>) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| value.is_finite()) {
            (low, high) = (low.min(value), high.max(value));
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        let rough = (high - low).max(1e-6) / 8.0;
        let magnitude = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|step| step * magnitude)
            .into_iter()
            .find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        Self {
            low: (low / step).floor() * step,
            high: ((high / step).ceil() * step).max(low + step),
            step,
        }
    }

    /// Where a value lies, from 0 to 1.
    fn share(&self, value: f64) -> f64 {
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    fn ticks(&self) -> Vec<f64> {
        // A hair more, because steps such as 0.1 are no sums of powers of two.
        let count = ((self.high - self.low) / self.step + 1e-6).floor() as usize;
        (0..=count).map(|tick| self.low + tick as f64 * self.step).collect()
    }
}

/// A tick's number without superfluous digits.
fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl Figure {
    fn axes(&self) -> (Axis, Axis) {
        let mut x = Axis::over(self.curve.iter().map(|point| point.0));
        // The curve goes to the right edge.
        x.high = self.curve.last().map_or(x.high, |last| last.0.max(x.low + x.step));
        let y = Axis::over(
            self.curve
                .iter()
                .map(|point| point.1)
                .chain(self.levels.iter().map(|level| level.1)),
        );
        (x, y)
    }

    /// The figure in characters: `●` the curve, dashes the levels with their names at the right.
    pub fn to_text(&self) -> String {
        let (x, y) = self.axes();
        let row = |value: f64| ((1.0 - y.share(value)) * (ROWS - 1) as f64).round() as usize;
        let column = |value: f64| (x.share(value) * (COLUMNS - 1) as f64).round() as usize;
        let mut grid = vec![[' '; COLUMNS]; ROWS];
        let mut names = vec![Vec::new(); ROWS];
        for (name, level) in &self.levels {
            let line = row(*level);
            grid[line].iter_mut().step_by(2).for_each(|place| *place = '╌');
            names[line].push(format!("{name} {level:.3}"));
        }
        for pair in self.curve.windows(2) {
            let (from, to) = (column(pair[0].0), column(pair[1].0));
            (from..=to).for_each(|at| {
                let share = (at - from) as f64 / (to - from).max(1) as f64;
                grid[row(pair[0].1 + share * (pair[1].1 - pair[0].1))][at] = '·';
            });
        }
        self.curve
            .iter()
            .for_each(|point| grid[row(point.1)][column(point.0)] = '●');
        if let Some((_, last)) = self.curve.last() {
            names[row(*last)].insert(0, format!("{} {last:.3}", self.curve_name));
        }
        let mut text = format!("{}\n", self.y_label);
        for (index, line) in grid.iter().enumerate() {
            let tick = y.ticks().into_iter().find(|tick| row(*tick) == index);
            let line: String = line.iter().collect();
            let names = names[index].join(", ");
            text += format!("{:>6} │{line} {names}", tick.map_or_else(String::new, number)).trim_end();
            text.push('\n');
        }
        _ = writeln!(text, "       └{}", "─".repeat(COLUMNS));
        let (low, high) = (number(x.low), number(x.high));
        let gap = COLUMNS.saturating_sub(low.len() + high.len() + self.x_label.chars().count());
        _ = writeln!(
            text,
            "        {low}{0}{1}{2}{high}",
            " ".repeat(gap / 2),
            self.x_label,
            " ".repeat(gap - gap / 2)
        );
        text
    }

    /// The figure as an SVG document.
    pub fn to_svg(&self) -> String {
        let (x, y) = self.axes();
        let (inner_width, inner_height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
        let at_x = |value: f64| LEFT + x.share(value) * inner_width;
        let at_y = |value: f64| TOP + (1.0 - y.share(value)) * inner_height;
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"13\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
        );
        for tick in y.ticks() {
            let (at, text) = (at_y(tick), number(tick));
            _ = writeln!(svg, "<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#e0e0e0\"/>");
            _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
                LEFT - 8.0,
                at + 4.0
            );
        }
        for tick in x.ticks() {
            let (at, text) = (at_x(tick), number(tick));
            _ = writeln!(svg, "<path d=\"M{at:.1} {bottom}v5\" stroke=\"black\"/>");
            _ = writeln!(
                svg,
                "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{text}</text>",
                bottom + 20.0
            );
        }
        _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {TOP}V{bottom}H{right}\" fill=\"none\" stroke=\"black\"/>"
        );
        let (middle_x, middle_y) = (LEFT + inner_width / 2.0, TOP + inner_height / 2.0);
        let label = escape(&self.x_label);
        _ = writeln!(
            svg,
            "<text x=\"{middle_x}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
            bottom + 42.0
        );
        let label = escape(&self.y_label);
        _ = writeln!(
            svg,
            "<text transform=\"translate(20 {middle_y}) rotate(-90)\" text-anchor=\"middle\">{label}</text>"
        );
        for (index, (_, level)) in self.levels.iter().enumerate() {
            let (at, colour) = (at_y(*level), colour(index + 1));
            _ = writeln!(
                svg,
                "<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"{colour}\" stroke-width=\"1.5\" stroke-dasharray=\"6 4\"/>"
            );
        }
        let points: Vec<String> = self
            .curve
            .iter()
            .map(|(x, y)| format!("{:.1},{:.1}", at_x(*x), at_y(*y)))
            .collect();
        _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2.5\"/>",
            points.join(" "),
            colour(0)
        );
        for (x, y) in &self.curve {
            _ = writeln!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\" fill=\"{}\"/>",
                at_x(*x),
                at_y(*y),
                colour(0)
            );
        }
        self.legend(&mut svg, right + 16.0);
        svg.push_str("</svg>\n");
        svg
    }

    fn legend(&self, svg: &mut String, left: f64) {
        let last = self.curve.last().map_or(f64::NAN, |point| point.1);
        let entries = std::iter::once((&self.curve_name, last, "")).chain(
            self.levels
                .iter()
                .map(|(name, level)| (name, *level, " stroke-dasharray=\"6 4\"")),
        );
        for (index, (name, value, dashes)) in entries.enumerate() {
            let (at, colour, name) = (TOP + 14.0 + 22.0 * index as f64, colour(index), escape(name));
            _ = writeln!(
                svg,
                "<path d=\"M{left} {at}h24\" stroke=\"{colour}\" stroke-width=\"2\"{dashes}/>"
            );
            _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\">{name} {value:.3}</text>",
                left + 32.0,
                at + 4.0
            );
        }
    }
}

fn colour(index: usize) -> &'static str {
    COLOURS[index % COLOURS.len()]
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure() -> Figure {
        Figure {
            curve: vec![(0.0, 5.5), (30.0, 3.0), (60.0, 2.5)],
            curve_name: "together".to_owned(),
            levels: vec![("a & b alone".to_owned(), 3.5)],
            x_label: "local steps".to_owned(),
            y_label: "loss".to_owned(),
        }
    }

    #[test]
    fn axes_have_round_ticks_around_all_values() {
        let axis = Axis::over([2.13, 5.54].into_iter());
        assert_eq!((axis.low, axis.high, axis.step), (2.0, 6.0, 0.5));
        assert_eq!(axis.ticks().len(), 9);
        let flat = Axis::over([1.0, 1.0].into_iter());
        assert!(flat.low < flat.high && flat.share(1.0).is_finite());
        assert!(Axis::over(std::iter::empty()).share(0.5).is_finite());
    }

    #[test]
    fn the_text_has_every_point_in_its_place() {
        let text = figure().to_text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(text.matches('●').count(), 3);
        // The highest point is at the left of the second row from the top; the last is at the right, below the level.
        let first = lines.iter().position(|line| line.contains("│●")).unwrap();
        let last = lines.iter().position(|line| line.contains("together 2.500")).unwrap();
        let level = lines
            .iter()
            .position(|line| line.contains("a & b alone 3.500"))
            .unwrap();
        assert!(first < level && level < last, "{text}");
        assert!(text.contains("local steps"));
    }

    #[test]
    fn the_svg_is_balanced_and_escaped_and_names_axes_and_series() {
        let svg = figure().to_svg();
        for part in [
            "local steps",
            ">loss<",
            "a &amp; b alone 3.500",
            "together 2.500",
            "</svg>",
        ] {
            assert!(svg.contains(part), "{part} is missing");
        }
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        assert!(!svg.contains("NaN") && !svg.contains("& b"));
    }
}
