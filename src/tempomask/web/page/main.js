// Everything begins here.

import * as canvas from "./canvas.js";
import * as help from "./help.js";
import * as objects from "./objects.js";
import * as panels from "./panels.js";
import { connect } from "./socket.js";
import * as timeline from "./timeline.js";
import * as tools from "./tools.js";

for (const part of [canvas, timeline, objects, tools, panels, help]) part.start();
connect();
