//! A schedule's learning rate over steps, drawn with characters for the terminal and as an SVG file, or written as CSV.
//! It shows rows of [`super::table`] and computes nothing of the schedule itself.

use std::fmt::Write;

use super::Row;

/// Characters inside of the frame.
const COLUMNS: usize = 64;
const LINES: usize = 14;

/// The SVG's sizes, in pixels: the frame within its margins.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 320.0;
const MARGIN: f64 = 64.0;

/// Rows that a drawing of [`chart`] or [`svg`] can show; more are of no use.
pub const MOST_ROWS: usize = 640;

/// Greatest learning rate, or 1 where all are 0; and the greatest step, at least 1.
fn extent(rows: &[Row]) -> (f64, f64) {
    let rate = rows.iter().map(|row| f64::from(row.learning_rate)).fold(0.0, f64::max);
    let step = rows.iter().map(|row| row.step).max().unwrap_or(0);
    (if rate > 0.0 { rate } else { 1.0 }, (step as f64).max(1.0))
}

/// The learning rate with characters; where the batch changes, the steps are named below.
pub fn chart(rows: &[Row]) -> String {
    let (peak, last) = extent(rows);
    let mut cells = vec![[' '; COLUMNS]; LINES];
    for row in rows {
        let column = (row.step as f64 / last * (COLUMNS - 1) as f64).round() as usize;
        let height = f64::from(row.learning_rate) / peak * (LINES - 1) as f64;
        cells[LINES - 1 - height.round() as usize][column] = '•';
    }
    let mut text = String::from("learning rate\n");
    for (line, cells) in cells.iter().enumerate() {
        let label = match line {
            0 => format!("{peak:.2e}"),
            line if line == LINES - 1 => "0".to_owned(),
            _ => String::new(),
        };
        let drawn: String = cells.iter().collect();
        let _ = writeln!(text, "{label:>9} ┤{}", drawn.trim_end());
    }
    let _ = writeln!(text, "{:>9} └{}", "", "─".repeat(COLUMNS));
    let end = format!("step {last}");
    let _ = writeln!(text, "{:>11}0{end:>width$}", "", width = COLUMNS - 1);
    for change in batch_changes(rows) {
        let _ = writeln!(
            text,
            "{:>11}from step {} on (or shortly before): {} sequences a batch",
            "", change.step, change.batch_sequences
        );
    }
    text
}

/// The rows as comma-separated values (RFC 4180), a line a row below the names of the columns.
pub fn csv(rows: &[Row]) -> String {
    let mut text = String::from("step,round,factor,learning_rate,batch_sequences,consumed_sequences\r\n");
    for row in rows {
        let Row {
            step,
            round,
            factor,
            learning_rate,
            batch_sequences,
            consumed_sequences,
        } = row;
        let _ = write!(
            text,
            "{step},{round},{factor},{learning_rate},{batch_sequences},{consumed_sequences}\r\n"
        );
    }
    text
}

/// The rows whose batch is another than the row's before.
fn batch_changes(rows: &[Row]) -> impl Iterator<Item = &Row> {
    let pairs = rows.windows(2);
    pairs
        .filter(|pair| pair[0].batch_sequences != pair[1].batch_sequences)
        .map(|pair| &pair[1])
}

/// The learning rate as an SVG file, dashed lines where the batch changes.
pub fn svg(rows: &[Row]) -> String {
    let (peak, last) = extent(rows);
    let x = |step: u64| MARGIN + step as f64 / last * WIDTH;
    let y = |rate: f32| MARGIN / 2.0 + (1.0 - f64::from(rate) / peak) * HEIGHT;
    let (bottom, right) = (MARGIN / 2.0 + HEIGHT, MARGIN + WIDTH);
    let (full_width, full_height) = (WIDTH + 1.5 * MARGIN, HEIGHT + 1.5 * MARGIN);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{full_width}\" height=\"{full_height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <path d=\"M{MARGIN} {} V{bottom} H{right}\" fill=\"none\" stroke=\"black\"/>\n",
        MARGIN / 2.0
    );
    for change in batch_changes(rows) {
        let at = x(change.step);
        let _ = writeln!(
            text,
            "<path d=\"M{at:.1} {} V{bottom}\" stroke=\"#0072b2\" stroke-dasharray=\"4 4\"/>\n\
             <text x=\"{:.1}\" y=\"{}\" fill=\"#0072b2\">{} sequences</text>",
            MARGIN / 2.0,
            at + 4.0,
            MARGIN / 2.0 + 12.0,
            change.batch_sequences
        );
    }
    let points = rows
        .iter()
        .map(|row| format!("{:.1},{:.1}", x(row.step), y(row.learning_rate)));
    let points = points.collect::<Vec<_>>().join(" ");
    let _ = writeln!(
        text,
        "<polyline points=\"{points}\" fill=\"none\" stroke=\"black\" stroke-width=\"2\"/>\n\
         <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{peak:.2e}</text>\n\
         <text x=\"{}\" y=\"{bottom}\" text-anchor=\"end\">0</text>\n\
         <text x=\"{MARGIN}\" y=\"{}\">0</text>\n\
         <text x=\"{right}\" y=\"{}\" text-anchor=\"end\">step {last}</text>\n\
         <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">learning rate over steps of the session</text>\n</svg>",
        MARGIN - 6.0,
        MARGIN / 2.0 + 10.0,
        MARGIN - 6.0,
        bottom + 16.0,
        bottom + 16.0,
        MARGIN + WIDTH / 2.0,
        bottom + 34.0,
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TrainingConfig;
    use crate::schedules::{Linear, ScheduleConfig, Stage, table};

    fn rows(count: usize) -> Vec<Row> {
        let config = TrainingConfig {
            schedule: ScheduleConfig::Linear(Linear {
                warmup_steps: 0,
                total_steps: 101,
                floor: 0.0,
                ..Linear::default()
            }),
            stages: vec![Stage {
                after_sequences: 200,
                batch_sequences: 32,
            }],
            ..TrainingConfig::default()
        };
        table(&config, 101, count)
    }

    #[test]
    fn a_falling_line_goes_from_the_upper_left_to_the_lower_right() {
        let text = chart(&rows(101));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("  1.50e-3 ┤•"), "{text}");
        assert_eq!(lines[LINES].chars().count(), 11 + COLUMNS, "{text}");
        assert!(lines[LINES].starts_with("        0 ┤ "), "{text}");
        assert!(
            text.contains("from step 50 on (or shortly before): 32 sequences"),
            "{text}"
        );
    }

    #[test]
    fn the_svg_has_a_point_a_row_and_the_change_of_batch() {
        let text = svg(&rows(11));
        let points = text
            .split("points=\"")
            .nth(1)
            .and_then(|rest| rest.split('"').next())
            .unwrap();
        assert_eq!(points.split(' ').count(), 11);
        assert!(
            points.starts_with("64.0,32.0 ") && points.ends_with(" 704.0,348.8"),
            "{points}"
        );
        assert!(text.contains(">32 sequences</text>") && text.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn the_csv_reads_back_as_the_rows() {
        let (rows, text) = (rows(7), csv(&rows(7)));
        let mut lines = text.split_terminator("\r\n");
        assert_eq!(lines.next().unwrap().split(',').count(), 6);
        let read: Vec<(u64, f32)> = lines
            .map(|line| {
                let cells: Vec<&str> = line.split(',').collect();
                (cells[0].parse().unwrap(), cells[3].parse().unwrap())
            })
            .collect();
        let expected: Vec<(u64, f32)> = rows.iter().map(|row| (row.step, row.learning_rate)).collect();
        assert_eq!(read, expected);
    }

    #[test]
    fn no_rows_are_an_empty_frame() {
        assert!(chart(&[]).contains("step 1"));
        assert!(svg(&[]).contains("<svg"));
    }
}
