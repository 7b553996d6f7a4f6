;; Fills a file in the granted directory until it cannot. In a tmpfs the file is memory, which Wasm's own limit
;; does not see and the kernel's does: its pages are charged to who wrote them.
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 32) "hog")
  (func (export "_start")
    ;; descriptor 3 is the directory; 9 is CREATE and TRUNCATE; right 64 is to write
    (if (call $open (i32.const 3) (i32.const 0) (i32.const 32) (i32.const 3) (i32.const 9)
          (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 16))
      (then (unreachable)))
    ;; one vector at 0: 64 KiB from the second page
    (i32.store (i32.const 0) (i32.const 65536))
    (i32.store (i32.const 4) (i32.const 65536))
    (loop $more
      (br_if $more
        (i32.eqz (call $write (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 20)))))))
