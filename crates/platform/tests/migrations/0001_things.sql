CREATE TABLE phoenix_test.things (id BIGINT PRIMARY KEY);
