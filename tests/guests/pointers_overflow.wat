;; Hands the host buffers that lie outside its memory, wrap around its end, or are 2 GiB long. Each export
;; tries one and returns 0 if the host took it.
;; Expected of every export: a trap, or a result that is not 0; nothing outside the memory is touched.
(module
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "crosses_the_end") (result i32) (call $random (i32.const 65535) (i32.const 2)))
  (func (export "begins_past_the_end") (result i32) (call $random (i32.const 65537) (i32.const 1)))
  (func (export "wraps_around") (result i32) (call $random (i32.const -1) (i32.const 2)))
  (func (export "longest_there_is") (result i32) (call $random (i32.const 16) (i32.const -1)))
  (func (export "two_gib_long") (result i32) (call $random (i32.const 0) (i32.const 0x80000000)))
  ;; Nothing at the very end is within bounds: this one is to be taken, so it returns 0.
  (func (export "empty_at_the_end") (result i32) (call $random (i32.const 65536) (i32.const 0))))
