PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;

-- Each text is stored once, though it is part of many questions.
CREATE TABLE IF NOT EXISTS texts (hash TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, judge TEXT NOT NULL, template TEXT NOT NULL, wording TEXT NOT NULL,
    context TEXT NOT NULL, text_1 TEXT NOT NULL, text_2 TEXT NOT NULL, settings TEXT NOT NULL, sample INTEGER NOT NULL,
    answer TEXT NOT NULL, ending TEXT NOT NULL, verdict TEXT,
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, cost REAL NOT NULL,
    asked TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')), run TEXT NOT NULL
) WITHOUT ROWID;

-- Totals of each run.
CREATE TABLE IF NOT EXISTS spending (
    run TEXT, judge TEXT, answers INTEGER, input_tokens INTEGER, output_tokens INTEGER, cost REAL,
    PRIMARY KEY (run, judge)
) WITHOUT ROWID;

-- Maximum cost of ended requests that may or may not have been charged.
CREATE TABLE IF NOT EXISTS reserved (id INTEGER PRIMARY KEY, run TEXT, judge TEXT, cost REAL);

-- Maximum cost of requests in flight. A row that is still here after `until` (Unix time) was lost with its process.
CREATE TABLE IF NOT EXISTS under_way (id INTEGER PRIMARY KEY, run TEXT, judge TEXT, cost REAL, until REAL);

CREATE VIEW IF NOT EXISTS readable AS
    SELECT asked, judge, template, verdict, answer, ending, context.text AS context, first.text AS text_1,
        second.text AS text_2, settings, sample, input_tokens, output_tokens, cost, run, key
    FROM answers JOIN texts AS context ON context.hash = answers.context
        JOIN texts AS first ON first.hash = answers.text_1 JOIN texts AS second ON second.hash = answers.text_2;
