//! `strftime_now`, with which some templates tell the model the date: in UTC, in English.

use std::fmt::Write;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
/// From the day of the epoch on, a Thursday.
const DAYS: [&str; 7] = [
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
];
/// Characters that a format may have.
const MOST: usize = 256;

/// Writes `seconds` since 1970 in Python's format; nothing where it asks for what is not known here.
pub fn strftime(format: &str, seconds: u64) -> Option<String> {
    if format.len() > MOST {
        return None;
    }
    let (days, second) = (seconds / 86400, seconds % 86400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let (name, weekday) = (MONTHS[month - 1], DAYS[(days % 7) as usize]);
    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut field = rest.next()?;
        let is_bare = field == '-';
        if is_bare {
            field = rest.next()?;
        }
        let mut two = |value: u64| match is_bare {
            true => write!(out, "{value}"),
            false => write!(out, "{value:02}"),
        };
        match field {
            'd' => two(day),
            'm' => two(month as u64),
            'y' => two(year % 100),
            'H' => two(hour),
            'I' => two((hour + 11) % 12 + 1),
            'M' => two(minute),
            'S' => two(second),
            'Y' => write!(out, "{year}"),
            'B' => write!(out, "{name}"),
            'b' | 'h' => write!(out, "{}", &name[..3]),
            'A' => write!(out, "{weekday}"),
            'a' => write!(out, "{}", &weekday[..3]),
            'p' => write!(out, "{}", if hour < 12 { "AM" } else { "PM" }),
            'F' => write!(out, "{year}-{month:02}-{day:02}"),
            'T' => write!(out, "{hour:02}:{minute:02}:{second:02}"),
            'Z' => write!(out, "UTC"),
            'z' => write!(out, "+0000"),
            '%' => write!(out, "%"),
            _ => return None,
        }
        .ok()?;
    }
    Some(out)
}

/// Year, month and day of the month of a day since 1970-01-01, by the Gregorian calendar.
fn civil(days: u64) -> (u64, usize, u64) {
    // Years from March on, so that the day that comes and goes is a year's last.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let first = (153 * month + 2) / 5;
    let january = month >= 10;
    let number = if january { month - 9 } else { month + 3 };
    (
        era * 400 + year + u64::from(january),
        number as usize,
        day - first + 1,
    )
}

#[cfg(test)]
mod tests {
    use super::strftime;

    #[test]
    fn dates_are_written() {
        let at = |seconds, format| strftime(format, seconds).unwrap();
        assert_eq!(
            at(0, "%A %d %B %Y %H:%M:%S"),
            "Thursday 01 January 1970 00:00:00"
        );
        assert_eq!(at(951_782_400, "%a, %b %-d %y"), "Tue, Feb 29 00");
        assert_eq!(
            at(1_795_695_299, "%F %T %I %p %%"),
            "2026-11-26 12:14:59 12 PM %"
        );
        assert_eq!(strftime("%Q", 0), None);
        assert_eq!(strftime("%", 0), None);
        assert_eq!(strftime(&"%Y".repeat(1000), 0), None);
    }
}
