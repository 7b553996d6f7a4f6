;; Grows a table, which takes host memory as a memory does, until it is refused, then traps.
;; Expected: out_of_memory.
(module
  (memory (export "memory") 1)
  (table $t 1 funcref)
  (func (export "_start")
    (loop $more
      (br_if $more (i32.ne (table.grow $t (ref.null func) (i32.const 65536)) (i32.const -1))))
    unreachable))
