// Answers with the request's body in capitals; with nothing, where there was none.
export default {
  async fetch(request) {
    return new Response((await request.text()).toUpperCase());
  },
};
