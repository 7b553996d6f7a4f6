// Module form: each exported function is an entry, named with --entry. What a promise comes to is the result.
const wait = (ms) => new Promise((done) => setTimeout(done, ms));

export function greet({ name }, ctx) {
  ctx.log.info("greeting", name, "for", ctx.tenant);
  return { greeting: `${ctx.env.GREETING ?? "Hello"}, ${name}!` };
}

export async function retry({ failures }) {
  let attempts = 0;
  const unreliable = async () => {
    attempts++;
    if (attempts <= failures) throw new Error(`attempt ${attempts} failed`);
    return "done";
  };
  for (let pause = 1; ; pause *= 2) {
    try {
      return { result: await unreliable(), attempts };
    } catch (error) {
      console.warn(error.message);
      if (attempts === 5) throw new Error("gave up", { cause: error });
      await wait(pause);
    }
  }
}

export default ({ a, b }) => a + b;
