# A module for NixOS. The memory and the panic policy are declared here; the units are those that `kdump setup` would write, so setup
# itself, which edits files below /etc, is not used. `kdumpPackage` is a Python environment with linux-kdump in it.
{ config, lib, pkgs, ... }:
let
  cfg = config.services.linux-kdump;
in
{
  options.services.linux-kdump = {
    enable = lib.mkEnableOption "crash dumps by kdump";
    package = lib.mkOption { type = lib.types.package; };
    reserve = lib.mkOption { type = lib.types.str; default = "256M"; };
    settings = lib.mkOption { type = (pkgs.formats.toml { }).type; default = { targets = [ "file:///var/crash" ]; }; };
  };

  config = lib.mkIf cfg.enable {
    boot.kernelParams = [ "crashkernel=${cfg.reserve}" ];
    boot.kernel.sysctl = { "kernel.panic" = 10; "kernel.panic_on_oops" = 1; "kernel.hardlockup_panic" = 1; };
    environment.systemPackages = [ cfg.package ];
    environment.etc."kdump/kdump.toml".source = (pkgs.formats.toml { }).generate "kdump.toml" cfg.settings;
    systemd.services.linux-kdump = {
      description = "Load the capture kernel";
      wantedBy = [ "sysinit.target" ];
      unitConfig = { DefaultDependencies = false; RequiresMountsFor = "/var/lib/linux-kdump"; };
      after = [ "local-fs.target" ];
      path = [ pkgs.kmod pkgs.util-linux ];
      serviceConfig = { Type = "oneshot"; RemainAfterExit = true; ExecStart = "${cfg.package}/bin/kdump build --if-stale --load"; };
    };
    systemd.services.linux-kdump-collect = {
      description = "Look after new crashes";
      wantedBy = [ "multi-user.target" ];
      after = [ "linux-kdump.service" "network-online.target" ];
      wants = [ "network-online.target" ];
      serviceConfig = { Type = "oneshot"; ExecStart = "${cfg.package}/bin/kdump collect --new"; };
    };
  };
}
