# What the Kata agent of a run's pod does when the host asks: it starts Strongroom's agent out of one image, and nothing
# else. Whoever changes a word of this, or of what stands below it, changes the digest in the hardware's evidence
# (initdata). What is not named here, and what cannot be evaluated, is refused.
package agent_policy

import future.keywords.every
import future.keywords.if
import future.keywords.in

default AddARPNeighborsRequest := false
default AddSwapRequest := false
default AllowRequestsFailingPolicy := false
default CloseStdinRequest := false
default CopyFileRequest := false
default CreateContainerRequest := false
default CreateSandboxRequest := false
default DestroySandboxRequest := true
default ExecProcessRequest := false
default GetMetricsRequest := false
default GetOOMEventRequest := true
default GuestDetailsRequest := true
default ListInterfacesRequest := false
default ListRoutesRequest := false
default MemAgentCompactSetRequest := false
default MemAgentMemcgSetRequest := false
default MemHotplugByProbeRequest := false
default OnlineCPUMemRequest := true
default PauseContainerRequest := false
default PullImageRequest := false
default ReadStreamRequest := true
default RemoveContainerRequest := true
default RemoveStaleVirtiofsShareMountsRequest := true
default ReseedRandomDevRequest := false
default ResumeContainerRequest := false
default SetGuestDateTimeRequest := false
default SetIPTablesRequest := false
default SetPolicyRequest := false
default SignalProcessRequest := true
default StartContainerRequest := true
default StartTracingRequest := false
default StatsContainerRequest := true
default StopTracingRequest := false
default TtyWinResizeRequest := false
default UpdateContainerRequest := false
default UpdateEphemeralMountsRequest := false
default UpdateInterfaceRequest := false
default UpdateRoutesRequest := false
default VolumeStatsRequest := false
default WaitProcessRequest := true
default WriteStreamRequest := false

# The sandbox: no code of the host's in the guest, no process namespace shared between containers.
CreateSandboxRequest if {
	object.get(input, "guest_hook_path", "") == ""
	empty(object.get(input, "kernel_modules", []))
	object.get(input, "sandbox_pidns", false) == false
	every storage in object.get(input, "storages", []) {
		shared_memory(storage)
	}
}

# The pause container, which the measured guest brings itself.
CreateContainerRequest if {
	container_type == "pod_sandbox"
	input.OCI.Process.Args == ["/pause"]
	plain_container
	some storage in input.storages
	storage.source == "pause"
	every each in input.storages {
		allowed_storage(each, ["pause"])
	}
	every mount in input.OCI.Mounts {
		pause_mount(mount)
	}
}

# Strongroom's agent, out of the pinned image.
CreateContainerRequest if {
	container_type == "pod_container"
	agent_command
	agent_process
	plain_container
	pulled := [storage | some storage in input.storages; storage.driver == "image_guest_pull"]
	count(pulled) == 1
	pinned(pulled[0].source)
	every option in pulled[0].driver_options {
		names_no_sandbox(option)
	}
	every each in input.storages {
		allowed_storage(each, [pulled[0].source])
	}
	every mount in input.OCI.Mounts {
		allowed_mount(mount)
	}
}

container_type := input.OCI.Annotations["io.katacontainers.pkg.oci.container_type"]

# Further words are Spark's, and the agent reads none of them.
agent_command if {
	args := input.OCI.Process.Args
	array.slice(args, 0, count(policy_data.command)) == policy_data.command
	args[count(policy_data.command)] in policy_data.roles
}

agent_process if {
	process := input.OCI.Process
	process.NoNewPrivileges == true
	process.User.UID in policy_data.users
	no_capabilities(process.Capabilities)
	every variable in process.Env {
		allowed_variable(variable)
	}
	input.OCI.Root.Readonly == true
}

# A capability of any set would do; Kubernetes drops all of them (`drop: [ALL]`).
no_capabilities(capabilities) if is_null(capabilities)

no_capabilities(capabilities) if {
	is_object(capabilities)
	every name in ["Ambient", "Bounding", "Effective", "Inheritable", "Permitted"] {
		empty(object.get(capabilities, name, []))
	}
}

allowed_variable(variable) if variable in policy_data.environment

allowed_variable(variable) if {
	some pattern in policy_data.environment_patterns
	regex.match(pattern, variable)
}

# Hooks would run code of the host's choice, and devices and shared mounts would bring data past the mounts below.
plain_container if {
	regex.match(`^[0-9a-f]{64}$`, input.container_id)
	is_null(object.get(input.OCI, "Hooks", null))
	empty(object.get(input.OCI.Linux, "Devices", []))
	empty(object.get(input, "devices", []))
	empty(object.get(input, "shared_mounts", []))
	object.get(input, "sandbox_pidns", false) == false
	input.OCI.Root.Path == rootfs
	input.OCI.Process.Terminal == false
}

rootfs := concat("", ["/run/kata-containers/", input.container_id, "/rootfs"])

# An image by digest; of which registry it came from, the digest is all that counts.
pinned(source) if {
	parts := split(source, "@")
	count(parts) == 2
	parts[0] != ""
	parts[1] == split(strongroom_image, "@")[1]
}

# The agent decides by this word whether it pulls an image or takes its own pause container. JSON can spell a word with
# escapes, hence the backslash.
names_no_sandbox(option) if {
	not contains(option, `"sandbox"`)
	not contains(option, `\`)
}

allowed_storage(storage, sources) if {
	storage.driver == "image_guest_pull"
	storage.source in sources
	storage.mount_point == rootfs
}

allowed_storage(storage, _) if {
	storage.driver == "ephemeral"
	storage.source == "tmpfs"
	storage.fstype == "tmpfs"
	regex.match(`^/run/kata-containers/sandbox/ephemeral/[^/]+$`, storage.mount_point)
}

allowed_storage(storage, _) if shared_memory(storage)

shared_memory(storage) if {
	storage.driver == "ephemeral"
	storage.source == "shm"
	storage.fstype == "tmpfs"
	storage.mount_point == "/run/kata-containers/sandbox/shm"
}

allowed_mount(mount) if kernel_mount(mount)

allowed_mount(mount) if shared_memory_mount(mount)

# What the host hands in is read-only files beside the container's root: the host's word, and no code.
allowed_mount(mount) if {
	mount.destination in policy_data.host_files
	host_file(mount)
}

# The agent's scratch is the guest's memory.
allowed_mount(mount) if {
	mount.destination in policy_data.memory
	mount.type_ == "bind"
	regex.match(`^/run/kata-containers/sandbox/ephemeral/[^/]+$`, mount.source)
}

# A folder of the guest's own kernel, through which it is quoted.
allowed_mount(mount) if {
	mount.destination in policy_data.guest_folders
	mount.source == mount.destination
	mount.type_ == "bind"
}

pause_mount(mount) if kernel_mount(mount)

pause_mount(mount) if shared_memory_mount(mount)

pause_mount(mount) if {
	mount.destination == "/etc/resolv.conf"
	host_file(mount)
}

kernel_mount(mount) if {
	some allowed in [
		{"destination": "/proc", "source": "proc", "type_": "proc"},
		{"destination": "/dev", "source": "tmpfs", "type_": "tmpfs"},
		{"destination": "/dev/pts", "source": "devpts", "type_": "devpts"},
		{"destination": "/dev/mqueue", "source": "mqueue", "type_": "mqueue"},
		{"destination": "/sys", "source": "sysfs", "type_": "sysfs"},
		{"destination": "/sys/fs/cgroup", "source": "cgroup", "type_": "cgroup"},
	]
	allowed == {"destination": mount.destination, "source": mount.source, "type_": mount.type_}
}

shared_memory_mount(mount) if {
	mount.destination == "/dev/shm"
	mount.source == "/run/kata-containers/sandbox/shm"
	mount.type_ == "bind"
}

host_file(mount) if {
	mount.type_ == "bind"
	prefix := concat("", ["/run/kata-containers/shared/containers/", input.container_id, "-"])
	startswith(mount.source, prefix)
	regex.match(`^[0-9a-f]{16}-[^/]+$`, trim_prefix(mount.source, prefix))
}

# Files that the host hands in, and links among them; never a way out of their folder.
CopyFileRequest if {
	input.file_type in ["Regular", "Directory"]
	shared_path(input.path)
}

CopyFileRequest if {
	input.file_type == "Symlink"
	shared_path(input.path)
	stays_inside(input.symlink_target)
}

# Kata agents before file_type name a link's target, or nothing, here.
CopyFileRequest if {
	not input.file_type
	shared_path(input.path)
	stays_inside(input.symlink_src)
}

shared_path(path) if {
	regex.match(`^/run/kata-containers/shared/containers/[0-9a-f]{64}-[0-9a-f]{16}-[^/]+(/.*)?$`, path)
	stays_inside(trim_prefix(path, "/"))
}

stays_inside(path) if {
	is_string(path)
	not startswith(path, "/")
	every part in split(path, "/") {
		part != ".."
	}
}

# The network is the host's; the loopback interface is where Spark's JVM and its Python talk.
UpdateInterfaceRequest if {
	input.interface.name != "lo"
	input.interface.device != "lo"
	input.interface.hwAddr != "00:00:00:00:00:00"
}

UpdateRoutesRequest if {
	every route in input.routes.Routes {
		route.device != "lo"
		from_elsewhere(route.source)
	}
}

from_elsewhere(source) if {
	not startswith(source, "127.")
	not regex.match(`^[0:]*:0{0,3}1$`, source)
}

empty(value) if is_null(value)

empty(value) if count(value) == 0
