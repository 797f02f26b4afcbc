"""Tables of a work folder's `state.db`."""

from __future__ import annotations

VERSION = 1

SCHEMA = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE categories (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE images (
    id INTEGER PRIMARY KEY,
    file_name TEXT NOT NULL UNIQUE,
    height INTEGER NOT NULL,
    width INTEGER NOT NULL,
    split TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'selected',
    tries INTEGER NOT NULL DEFAULT 0,
    reason TEXT
);
CREATE INDEX images_by_state ON images (state, id);
CREATE TABLE objects (
    id INTEGER PRIMARY KEY,
    image_id INTEGER NOT NULL REFERENCES images (id),
    record TEXT NOT NULL
);
CREATE INDEX objects_by_image ON objects (image_id, id);
CREATE TABLE pairs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    image_id INTEGER NOT NULL REFERENCES images (id),
    slot INTEGER NOT NULL,
    question TEXT NOT NULL,
    answer TEXT NOT NULL,
    claims TEXT NOT NULL,
    state TEXT NOT NULL,
    tries INTEGER NOT NULL,
    reason TEXT,
    UNIQUE (image_id, slot)
);
CREATE INDEX pairs_by_state ON pairs (state, id);
CREATE TABLE history (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    pair_id INTEGER NOT NULL REFERENCES pairs (id),
    state TEXT NOT NULL,
    who TEXT NOT NULL,
    time TEXT NOT NULL,
    reason TEXT,
    question TEXT NOT NULL,
    answer TEXT NOT NULL
);
CREATE INDEX history_by_pair ON history (pair_id, id);
CREATE TABLE requests (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    image_id INTEGER NOT NULL REFERENCES images (id),
    round INTEGER NOT NULL,
    status TEXT NOT NULL,
    detail TEXT,
    response TEXT,
    prompt_tokens INTEGER NOT NULL DEFAULT 0,
    completion_tokens INTEGER NOT NULL DEFAULT 0,
    cost REAL NOT NULL DEFAULT 0,
    sent_at TEXT NOT NULL,
    answered_at TEXT
);
CREATE INDEX requests_by_image ON requests (image_id, id);
CREATE INDEX requests_by_status ON requests (status);
CREATE TABLE reviews (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    pair_id INTEGER NOT NULL REFERENCES pairs (id),
    reviewer TEXT NOT NULL,
    stage TEXT NOT NULL,
    verdict TEXT NOT NULL,
    question TEXT,
    answer TEXT,
    note TEXT NOT NULL,
    time TEXT NOT NULL,
    UNIQUE (pair_id, reviewer)
);
CREATE TABLE leases (
    pair_id INTEGER PRIMARY KEY REFERENCES pairs (id),
    reviewer TEXT NOT NULL,
    until REAL NOT NULL
);
"""
