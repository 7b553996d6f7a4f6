;; Writes terminal escapes (clear the screen, set the title), a NUL, a carriage return and a bell to its
;; error output. Expected: completed; a terminal that shows the log is not moved by it.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\40\00\00\00\30\00\00\00")
  (data (i32.const 64) "plain \1b[2J\1b[31mred\1b]0;owned\07 nul:\00 over\0dwritten\0a")
  (func (export "_start")
    (if (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))))
