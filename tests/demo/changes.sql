-- A day at the shop: what the demo changes between two syncs.

SET client_min_messages = warning;

-- New orders with their lines, in one transaction.
BEGIN;
WITH placed AS (
    INSERT INTO shop.orders (customer_id, status, placed_at, shipping, gift)
    SELECT 1 + i % 10, 'placed', now(), 4.90, i % 7 = 0 FROM generate_series(1, 1000) i RETURNING id
)
INSERT INTO shop.order_lines SELECT id, line, 1 + (id % 10)::int, 1 + line, 19.90 FROM placed, generate_series(1, 2) line;
COMMIT;

-- Orders move on; one is rolled back as if nothing had been.
UPDATE shop.orders SET status = 'delivered', delivered_on = current_date WHERE status = 'shipped' AND id % 10 = 0;
BEGIN; DELETE FROM shop.order_lines; ROLLBACK;

-- A customer's data are erased, and another one's id is corrected.
UPDATE shop.customers SET name = 'erased', born = NULL, last_seen_from = NULL WHERE id % 100 = 1;
DELETE FROM shop.order_lines WHERE order_id % 1000 = 7;

-- The application gets a new column, and uses it.
ALTER TABLE shop.orders ADD COLUMN tip numeric(10,2);
UPDATE shop.orders SET tip = 2.50 WHERE id % 50 = 3;

-- Events move to another partition, and come.
UPDATE audit.events SET happened_at = happened_at + interval '100 days' WHERE id % 500 = 1 AND happened_at < '2025-01-01';
INSERT INTO audit.events SELECT 1000000000 + i, '2025-11-05'::timestamptz + i * interval '1 second', 'demo', 'pay', '{"by": "demo"}' FROM generate_series(1, 500) i;
