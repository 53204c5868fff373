// Every path is this one page: the script shows which one was asked for.
const where = document.querySelector("#where");
const show = () => { where.textContent = `You are at ${location.pathname}`; };
document.querySelector("nav").addEventListener("click", (event) => {
  if (event.target.href) {
    event.preventDefault();
    history.pushState(null, "", event.target.href);
    show();
  }
});
addEventListener("popstate", show);
show();
