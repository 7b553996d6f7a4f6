;; Makes a symbolic link in the first granted directory, to its first argument and called by its second.
;; Expected: completed when it may; else guest_error with the error's number in WASI as the exit status.
(module
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_symlink" (func $symlink (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 2)
  (func $check (param $errno i32)
    (if (local.get $errno) (then (call $exit (local.get $errno)))))
  (func $length (param $at i32) (result i32)
    (local $end i32)
    (local.set $end (local.get $at))
    (loop $next
      (if (i32.load8_u (local.get $end))
        (then (local.set $end (i32.add (local.get $end) (i32.const 1))) (br $next))))
    (i32.sub (local.get $end) (local.get $at)))
  (func (export "_start")
    (local $target i32) (local $name i32)
    ;; Pointers to the arguments go to 1024, the arguments to 4096.
    (call $check (call $args (i32.const 1024) (i32.const 4096)))
    (local.set $target (i32.load (i32.const 1028)))
    (local.set $name (i32.load (i32.const 1032)))
    (call $check (call $symlink (local.get $target) (call $length (local.get $target)) (i32.const 3)
      (local.get $name) (call $length (local.get $name))))))
