//! Windows of statistics.

/// Names of windows with their lengths in seconds.
pub(crate) const WINDOWS: [(&str, u32); 4] = [("15m", 900), ("1h", 3_600), ("6h", 21_600), ("24h", 86_400)];
