//! The date, for the records.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now, as `2026-11-24 13:17` in UTC.
pub fn now() -> String {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    stamp(seconds)
}

/// Seconds since 1970 as a date and a time of day.
fn stamp(seconds: u64) -> String {
    let (year, month, day) = civil((seconds / 86_400) as i64);
    let minute = seconds / 60;
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}",
        minute / 60 % 24,
        minute % 60
    )
}

/// Days since 1970 as a date of the Gregorian calendar, by counting years from March, in cycles of 400 of them.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let cycle = days.div_euclid(146_097);
    let day_of_cycle = days.rem_euclid(146_097);
    let year_of_cycle =
        (day_of_cycle - day_of_cycle / 1460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
    let day_of_year =
        day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (
        year_of_cycle + cycle * 400 + i64::from(month <= 2),
        month,
        day,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates() {
        assert_eq!(stamp(0), "1970-01-01 00:00");
        assert_eq!(stamp(951_826_500), "2000-02-29 12:15");
        assert_eq!(stamp(1_735_689_599), "2024-12-31 23:59");
        assert_eq!(stamp(1_795_526_280), "2026-11-24 13:18");
    }
}
