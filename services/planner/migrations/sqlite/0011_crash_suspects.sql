-- Times by which a plan is suspected of a planner's crash, or not: the last heartbeat of a planner, and the takeover of a plan
-- by its present owner. All of them are of the owner's clock.
ALTER TABLE planners ADD COLUMN seen_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE dead_planners ADD COLUMN seen_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE plans ADD COLUMN taken_over_at INTEGER;
