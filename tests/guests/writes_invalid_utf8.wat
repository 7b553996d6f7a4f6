;; Writes bytes that are not UTF-8 to both outputs: a lone continuation byte, an overlong form, a
;; surrogate and a cut sequence. Expected: completed; the output arrives unchanged, marked as bytes.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\40\00\00\00\0d\00\00\00")
  (data (i32.const 64) "ok \80 \c0\af \ed\a0\80\e2\82")
  (func (export "_start")
    (if (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
    (if (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))))
