ALTER TABLE phoenix_test.things ADD COLUMN name TEXT;
CREATE INDEX things_by_name ON phoenix_test.things (name);
