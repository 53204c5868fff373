{ inputs, pkgs, ... }:
{
  imports = [ inputs.scottylabs.devenvModules.default ];

  packages = [ pkgs.python3 ];

  scottylabs = {
    enable = true;
    project.name = "guestbook";

    # Each branch and each pull request gets its own of these.
    postgres.enable = true;
    valkey.enable = true;
    garage.enable = true;

    kennel.services.guestbook.oidc.redirectPaths = [ "/oauth2/callback" ]; # a login through Keycloak
  };
}
