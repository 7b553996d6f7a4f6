// Nothing but computing: calls, whole numbers, and the sorting of an array. What an interpreter takes longer for.
(rounds) => {
  const fib = (n) => (n < 2 ? n : fib(n - 1) + fib(n - 2));
  const numbers = [];
  let state = 1;
  for (let round = 0; round < rounds; round++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    if (round % 100 === 0) numbers.push(state);
  }
  numbers.sort((one, other) => one - other);
  return [fib(22), state, numbers[0], numbers[numbers.length - 1]];
}
