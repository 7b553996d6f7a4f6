-- A year of a shop, made up the same way every time, then the questions its owner asks.
-- The result is the same on every machine, so a test can compare it to the byte.
DROP TABLE IF EXISTS item;
DROP TABLE IF EXISTS purchase;
DROP TABLE IF EXISTS customer;
CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, country TEXT NOT NULL);
CREATE TABLE purchase (id INTEGER PRIMARY KEY, customer INTEGER NOT NULL REFERENCES customer, day TEXT NOT NULL);
CREATE TABLE item (
    purchase INTEGER NOT NULL REFERENCES purchase,
    product TEXT NOT NULL,
    pieces INTEGER NOT NULL CHECK (pieces > 0),
    cents INTEGER NOT NULL CHECK (cents >= 0)
);

BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
INSERT INTO customer
SELECT i, printf('customer-%03d', i), CASE i * 7919 % 5 WHEN 0 THEN 'DE' WHEN 1 THEN 'FR' WHEN 2 THEN 'IT' WHEN 3 THEN 'PL' ELSE 'SE' END
FROM n;

WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
INSERT INTO purchase SELECT i, 1 + i * 104729 % 500, date('2025-01-01', (i * 6271 % 365) || ' days') FROM n;

WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 59999)
INSERT INTO item
SELECT 1 + i % 20000, 'product-' || char(65 + i * 31337 % 26), 1 + i * 17 % 4, 100 + i * 48271 % 9900 FROM n;
CREATE INDEX item_by_purchase ON item (purchase);
COMMIT;

SELECT 'rows', (SELECT count(*) FROM customer), (SELECT count(*) FROM purchase), (SELECT count(*) FROM item);

SELECT 'turnover', country, sum(pieces * cents) AS cents
FROM customer JOIN purchase ON purchase.customer = customer.id JOIN item ON item.purchase = purchase.id
GROUP BY country ORDER BY cents DESC;

SELECT 'best month', substr(day, 1, 7) AS month, count(DISTINCT purchase.id), sum(pieces * cents) AS cents
FROM purchase JOIN item ON item.purchase = purchase.id
GROUP BY month ORDER BY cents DESC LIMIT 3;

WITH spent AS (
    SELECT customer, sum(pieces * cents) AS cents
    FROM purchase JOIN item ON item.purchase = purchase.id GROUP BY customer
)
SELECT 'best customers', name, cents, rank() OVER (ORDER BY cents DESC, name) AS place
FROM spent JOIN customer ON customer.id = spent.customer ORDER BY place LIMIT 5;

SELECT 'integrity', * FROM pragma_integrity_check;
