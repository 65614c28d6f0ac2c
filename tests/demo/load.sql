-- A load of some thousand changes a second, for :seconds seconds, in transactions of 200.

SELECT set_config('demo.seconds', :'seconds', false) \g /dev/null
DO $$
DECLARE
    begun timestamptz := clock_timestamp();
    turn int := 0;
BEGIN
    WHILE clock_timestamp() < begun + current_setting('demo.seconds')::int * interval '1 second' LOOP
        turn := turn + 1;
        INSERT INTO shop.orders (customer_id, status, placed_at, shipping, gift, tip)
            SELECT 1 + turn % 10, 'placed', clock_timestamp(), 3.90, false, 1 FROM generate_series(1, 100);
        UPDATE shop.orders SET status = 'paid' WHERE id IN (SELECT id FROM shop.orders ORDER BY id DESC OFFSET 50 LIMIT 100);
        DELETE FROM shop.order_lines WHERE order_id = turn + 1;
        COMMIT;
        PERFORM pg_sleep(0.05);
    END LOOP;
END $$;
