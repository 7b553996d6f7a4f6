;; Tries to open etc/passwd, and the same by climbing, through every descriptor a grant could sit at.
;; Exits with 1 if any of them opens. Expected: completed.
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "../../../../../../../../etc/passwd")
  (func $try (param $fd i32) (param $path i32) (param $bytes i32)
    (if (i32.eqz (call $open (local.get $fd) (i32.const 1) (local.get $path) (local.get $bytes)
                             (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 0)))
      (then (call $exit (i32.const 1)))))
  (func (export "_start")
    (local $fd i32)
    (loop $next
      (call $try (local.get $fd) (i32.const 64) (i32.const 34))
      (call $try (local.get $fd) (i32.const 87) (i32.const 11))
      (call $try (local.get $fd) (i32.const 88) (i32.const 10))
      (local.set $fd (i32.add (local.get $fd) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $fd) (i32.const 16))))))
