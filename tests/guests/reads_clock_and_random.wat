;; Fails unless the wall clock is after 2020, the monotonic clock does not go back, and two draws of
;; sixteen random bytes differ; then prints the thirty-two bytes.
;; Expected: completed; different output each time.
(module
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (if (call $clock (i32.const 0) (i64.const 1) (i32.const 0)) (then unreachable))
    (if (i64.lt_u (i64.load (i32.const 0)) (i64.const 1577836800000000000)) (then unreachable))
    (if (call $clock (i32.const 1) (i64.const 1) (i32.const 8)) (then unreachable))
    (if (call $clock (i32.const 1) (i64.const 1) (i32.const 16)) (then unreachable))
    (if (i64.gt_u (i64.load (i32.const 8)) (i64.load (i32.const 16))) (then unreachable))
    (if (call $random (i32.const 32) (i32.const 16)) (then unreachable))
    (if (call $random (i32.const 48) (i32.const 16)) (then unreachable))
    (if (i32.and (i64.eq (i64.load (i32.const 32)) (i64.load (i32.const 48)))
                 (i64.eq (i64.load (i32.const 40)) (i64.load (i32.const 56)))) (then unreachable))
    (i32.store (i32.const 64) (i32.const 32))
    (i32.store (i32.const 68) (i32.const 32))
    (if (call $write (i32.const 1) (i32.const 64) (i32.const 1) (i32.const 72)) (then unreachable))))
