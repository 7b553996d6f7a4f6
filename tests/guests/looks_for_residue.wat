;; Takes all the memory that canary.wat takes and looks at every byte of it. Exits with 1 unless all are zero.
;; Expected: completed, whatever ran before.
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (table 1024 funcref)
  (func (export "_start")
    (local $at i32)
    (local $end i32)
    (if (i32.eq (memory.grow (i32.const 63)) (i32.const -1)) (then unreachable))
    (loop $entry
      (if (i32.eqz (ref.is_null (table.get (local.get $at)))) (then (call $exit (i32.const 1))))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $entry (i32.lt_u (local.get $at) (i32.const 1024))))
    (local.set $at (i32.const 0))
    (local.set $end (i32.mul (memory.size) (i32.const 65536)))
    (loop $look
      (if (i64.ne (i64.load (local.get $at)) (i64.const 0)) (then (call $exit (i32.const 1))))
      (local.set $at (i32.add (local.get $at) (i32.const 8)))
      (br_if $look (i32.lt_u (local.get $at) (local.get $end))))))
