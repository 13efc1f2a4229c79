//! Tables, and the figures in them.

use fieldfare_fleet::{ByteSize, Timestamp};

/// A table without ruled lines, as wide as its content.
pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(header.map(str::to_uppercase));
    let mut empty = true;
    for row in rows {
        table.add_row(row);
        empty = false;
    }
    if empty {
        return "none".to_owned();
    }
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    table.trim_fmt()
}

/// A size for people, as the domain writes it.
pub fn bytes(size: u64) -> String {
    ByteSize::new(size).to_string()
}

/// Tokens per second.
pub fn rate(tokens_per_second: f64) -> String {
    match tokens_per_second {
        fast if fast >= 100.0 => format!("{fast:.0}"),
        slow => format!("{slow:.1}"),
    }
}

/// How long ago, in its largest unit.
pub fn since(now: Timestamp, unix_ms: i64) -> String {
    let Ok(then) = u64::try_from(unix_ms) else {
        return "never".to_owned();
    };
    if then == 0 {
        return "never".to_owned();
    }
    match now.since(Timestamp::from_unix_ms(then)).as_secs() {
        seconds @ 0..120 => format!("{seconds} s ago"),
        seconds @ 120..7200 => format!("{} min ago", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h ago", seconds / 3600),
        seconds => format!("{} d ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_table_says_none() {
        assert_eq!(table(["name"], []), "none");
    }

    #[test]
    fn a_table_has_a_row_for_each_thing() {
        let text = table(
            ["name", "size"],
            [["a".to_owned(), "1".to_owned()], ["bb".to_owned(), "22".to_owned()]],
        );
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines, [vec!["NAME", "SIZE"], vec!["a", "1"], vec!["bb", "22"]]);
    }

    #[test]
    fn ages_use_their_largest_unit() {
        let now = Timestamp::from_unix_ms(10_000_000_000);
        for (ago, text) in [
            (5, "5 s ago"),
            (300, "5 min ago"),
            (10_000, "2 h ago"),
            (400_000, "4 d ago"),
        ] {
            assert_eq!(since(now, 10_000_000_000 - ago * 1000), text);
        }
        assert_eq!(since(now, 0), "never");
    }
}
