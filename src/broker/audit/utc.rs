//! `[broker]` A moment as RFC 3339 writes it, in UTC and to the microsecond.

use std::fmt;
use std::time::{Duration, SystemTime};

/// `2026-11-21T18:34:05.000042Z`. Of the same length until the year 9999, so that lines sort by it.
pub(super) struct Utc(Duration);

impl Utc {
    pub(super) fn now() -> Self {
        // A clock before 1970 has not been set.
        Self(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
    }
}

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (year, month, day) = date(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        let micros = self.0.subsec_micros();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
    }
}

/// Year, month and day of a day that is so many after the first of January 1970.
fn date(days: u64) -> (u64, u64, u64) {
    // The calendar repeats after 400 years. One that begins in March has its leap day at its end.
    const FROM_MARCH_OF_YEAR_0: u64 = 719_468;
    let days = days + FROM_MARCH_OF_YEAR_0;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // Months of 31 and 30 days alternate, with a break after five: 153 days.
    let month = (5 * day + 2) / 153;
    let (day, january) = (day - (153 * month + 2) / 5 + 1, month >= 10);
    (400 * era + year + u64::from(january), if january { month - 9 } else { month + 3 }, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// U-01: every day of 800 years, counted on from the one before it by the rules of the calendar.
    #[test]
    fn u_01_every_day_follows_the_one_before() {
        let mut expected = (1970, 1, 1);
        for days in 0..292_194 {
            assert_eq!(date(days), expected, "day {days}");
            expected = after(expected);
        }
        assert_eq!(Utc(Duration::from_micros(951_868_799_000_042)).to_string(), "2000-02-29T23:59:59.000042Z");
    }

    fn after((year, month, day): (u64, u64, u64)) -> (u64, u64, u64) {
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let last = match month {
            2 => 28 + u64::from(leap),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        match (month, day) {
            (12, 31) => (year + 1, 1, 1),
            _ if day == last => (year, month + 1, 1),
            _ => (year, month, day + 1),
        }
    }
}
