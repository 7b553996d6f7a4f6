;; Looks for a canary that an earlier job may have left anywhere in its memory, then fills its memory with
;; it. Exits with 1 if it finds one. Expected: completed, every time: no job reads another's memory.
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (local $at i32)
    (local $end i32)
    (drop (memory.grow (i32.const 63)))
    (local.set $end (i32.mul (memory.size) (i32.const 65536)))
    (loop $look
      (if (i64.ne (i64.load (local.get $at)) (i64.const 0)) (then (call $exit (i32.const 1))))
      (i64.store (local.get $at) (i64.const 0x5ca1ab1e0ddba11))
      (local.set $at (i32.add (local.get $at) (i32.const 8)))
      (br_if $look (i32.lt_u (local.get $at) (local.get $end))))))
