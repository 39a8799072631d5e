-- What each planner counted in each minute.
CREATE TABLE phoenix_planner.statistics (
    minute  bigint NOT NULL, -- since 1970
    planner text NOT NULL,   -- instance
    counts  text NOT NULL,   -- JSON object
    PRIMARY KEY (minute, planner)
);
