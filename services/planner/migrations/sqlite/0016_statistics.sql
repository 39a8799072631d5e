-- What each planner counted in each minute.
CREATE TABLE statistics (
    minute  INTEGER NOT NULL, -- since 1970
    planner TEXT NOT NULL,    -- instance
    counts  TEXT NOT NULL,    -- JSON object
    PRIMARY KEY (minute, planner)
) STRICT, WITHOUT ROWID;
