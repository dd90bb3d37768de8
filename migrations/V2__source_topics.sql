-- Which topic the positions in the other tables belong to. A topic that is deleted and created again
-- has the same name and another id, and its offsets mean other messages.

CREATE TABLE source_topics (
    source_topic text PRIMARY KEY,
    topic_id     text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE source_topics IS
    'Kafka''s id of each topic whose messages have rows here';
COMMENT ON COLUMN source_topics.topic_id IS 'As Kafka prints it; another topic has another one';
COMMENT ON COLUMN source_topics.created_at IS 'When the stream first read this topic';
