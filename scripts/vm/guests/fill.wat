;; Writes to 48 MiB of its memory, page by page, and then never ends.
(module
  (memory (export "memory") 768)
  (func (export "_start")
    (local $at i32)
    (loop $more
      (i32.store (local.get $at) (i32.const 1))
      (local.set $at (i32.add (local.get $at) (i32.const 4096)))
      (br_if $more (i32.lt_u (local.get $at) (i32.const 50331648))))
    (loop $again (br $again))))
