-- Most plans are chats, and most of those have ended well by the time they are moved into the tables. Such a plan is kept
-- whole: one task, its attempts and its events are one document, written once, instead of a row here and a row there.
-- Every other plan (of several tasks, still under way, or with a dead letter) is in tasks, attempts and events as before.
CREATE TABLE documents (
    position INTEGER PRIMARY KEY, -- of its first event; the others follow without a gap
    document TEXT NOT NULL,       -- JSON object: task and attempts, named as the columns of those tables
    events   TEXT NOT NULL        -- as in the table of that name
) STRICT;

ALTER TABLE plans ADD COLUMN document INTEGER; -- where it is, if the plan is kept whole
ALTER TABLE plans ADD COLUMN agent TEXT;       -- of its task, if the plan is kept whole

CREATE INDEX plans_by_agent ON plans (agent, plan_id) WHERE agent IS NOT NULL;

CREATE TRIGGER plan_deleted AFTER DELETE ON plans WHEN OLD.document IS NOT NULL BEGIN
    DELETE FROM documents WHERE position = OLD.document;
END;
